// An image in each of its forms to the pixels of the image tower.
#include "image/preprocess.hpp"

#include <new>

#include "errors.hpp"
#include "image/decode.hpp"
#include "image/read_file.hpp"
#include "image/transform.hpp"

namespace oce::core {
namespace {

/// What all forms of images need.
struct Task {
    const Preprocess& config;
    const DecodeOptions& options;
    std::span<std::uint8_t> result;
};

void encoded(const std::string& name, std::string_view data, const Task& task) {
    Size size{};
    const auto check = [&](std::int64_t width, std::int64_t height) {
        check_sizes(name, width, height, task.config, task.options.max_pixels);
        size = {height, width};
    };
    const auto reduction = [&] { return task.options.fast_decode ? reduction_of(size, task.config) : 1; };
    Pixels pixels = decode({name, data, check, reduction, task.options.plain_files});
    transform(std::move(pixels), size, task.config, task.result);
}

void run(const ImagePath& image, const Task& task, std::string& name) {
    name = image.path;
    const std::string data = read_image_file(image.path, task.options.max_pixels);
    encoded(name, data, task);
}

void run(const ImageBytes& image, const Task& task, std::string& name) {
    name = "image of " + std::to_string(image.data.size()) + " bytes";
    if (image.data.empty()) {
        throw ImageError(name + ": there is nothing to decode; pass an encoded image file's whole content");
    }
    encoded(name, image.data, task);
}

void run(const RgbView& image, const Task& task, std::string& name) {
    if (image.width <= 0 || image.height <= 0) {
        throw ImageError("array of shape (" + std::to_string(image.height) + ", " + std::to_string(image.width) +
                         ", 3): the image is empty; it needs at least one pixel");
    }
    name = "array of " + std::to_string(image.width) + " x " + std::to_string(image.height) + " pixels";
    check_sizes(name, image.width, image.height, task.config, task.options.max_pixels);
    Pixels pixels(Kind::rgb, image.width, image.height);
    for (int y = 0; y < image.height; ++y) {
        const std::uint8_t* from = image.data + y * image.stride;
        std::uint8_t* to = pixels.row(y);
        for (int x = 0; x < image.width; ++x, from += 3, to += 4) {
            to[0] = from[0];
            to[1] = from[1];
            to[2] = from[2];
            to[3] = 255;
        }
    }
    transform(std::move(pixels), {image.height, image.width}, task.config, task.result);
}

}  // namespace

void preprocess(const ImageInput& image, const Preprocess& config, const DecodeOptions& options, std::span<std::uint8_t> pixels) {
    const std::size_t needed = static_cast<std::size_t>(config.height) * static_cast<std::size_t>(config.width) * 3;
    if (pixels.size() != needed) {
        throw InputError("pixels have " + std::to_string(pixels.size()) + " bytes and not " + std::to_string(needed) +
                         "; pass height x width x 3 bytes");
    }
    std::string name;
    try {
        std::visit([&](const auto& form) { run(form, Task{config, options, pixels}, name); }, image);
    } catch (const std::bad_alloc&) {
        throw ImageError(name + ": no memory is left to decode and resize the image; load with a smaller max_pixels");
    }
}

}  // namespace oce::core
