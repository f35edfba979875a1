// Checks of callers' structs.
#include "api/arguments.hpp"

#include <algorithm>
#include <cstring>

#include "errors.hpp"

namespace oce::core {
namespace {

/// A struct of the caller's size, with defaults where the caller's is shorter.
template <typename Struct>
Struct copy_of(const Struct* given, std::size_t size, Struct defaults) {
    std::memcpy(&defaults, given, std::min(size, sizeof(Struct)));
    return defaults;
}

std::int64_t not_negative(const char* name, std::int64_t value) {
    if (value < 0)
        throw InputError(std::string(name) + " is " + std::to_string(value) +
                         ": pass a whole number, 1 or more, or 0 for the default");
    return value;
}

std::string text_or(const char* text, const char* otherwise) {
    return text != nullptr ? text : otherwise;
}

std::optional<std::string> optional_text(const char* text) {
    return text != nullptr ? std::optional<std::string>(text) : std::nullopt;
}

ImageInput image_of(const oce_image& image, std::size_t index) {
    const std::string place = "images[" + std::to_string(index) + "]";
    if (image.data == nullptr && (image.bytes > 0 || image.kind == OCE_IMAGE_RGB)) throw InputError(place + " has no data");
    const std::string_view data(static_cast<const char*>(image.data), image.bytes);
    if (image.kind == OCE_IMAGE_PATH) return ImagePath{std::string(data)};
    if (image.kind == OCE_IMAGE_BYTES) return ImageBytes{data};
    if (image.kind != OCE_IMAGE_RGB)
        throw InputError(place + ".kind is " + std::to_string(image.kind) + ": pass an oce_image_kind");
    const std::int64_t row = std::int64_t{3} * image.width;
    const std::int64_t stride = image.stride != 0 ? image.stride : row;
    if (image.width < 1 || image.height < 1) {  // an image that cannot be read, with its index
        return RgbView{static_cast<const std::uint8_t*>(image.data), std::max(image.width, 0), std::max(image.height, 0), 0};
    }
    const bool fits = stride >= row && (static_cast<std::int64_t>(image.bytes) - row) / stride >= image.height - 1 &&
                      static_cast<std::int64_t>(image.bytes) >= row;
    if (!fits) {
        throw InputError(place + ": " + std::to_string(image.bytes) + " bytes are too few for " + std::to_string(image.width) +
                         " x " + std::to_string(image.height) + " RGB pixels in rows of " + std::to_string(stride) + " bytes");
    }
    return RgbView{static_cast<const std::uint8_t*>(image.data), image.width, image.height, static_cast<std::ptrdiff_t>(stride)};
}

}  // namespace

Options options_of(const oce_options* options) {
    Options result;
    if (options == nullptr) return result;
    oce_options defaults{};
    oce_options_init(&defaults, sizeof(defaults));
    if (options->size < sizeof(std::size_t)) throw InputError("options.size is 0: make the options with oce_options_init");
    const oce_options given = copy_of(options, options->size, defaults);
    result.engine = text_or(given.engine, "auto");
    result.device = text_or(given.device, "auto");
    if ((given.towers & ~static_cast<std::uint32_t>(OCE_IMAGE | OCE_TEXT)) != 0) {
        throw InputError("towers is " + std::to_string(given.towers) + ": pass OCE_IMAGE, OCE_TEXT or both");
    }
    result.towers_named = given.towers != 0;
    result.image = !result.towers_named || (given.towers & OCE_IMAGE) != 0;
    result.text = !result.towers_named || (given.towers & OCE_TEXT) != 0;
    result.workers = static_cast<int>(not_negative("workers", given.workers));
    result.max_pixels = not_negative("max_pixels", given.max_pixels);
    result.threads = static_cast<int>(not_negative("threads", given.threads));
    result.device_id = static_cast<int>(not_negative("device_id", given.device_id));
    result.cuda_memory_limit = not_negative("cuda_memory_limit", given.cuda_memory_limit);
    result.allow_cpu_nodes = given.allow_cpu_nodes != 0;
    result.module_folder = optional_text(given.module_folder);
    result.engine_library = optional_text(given.engine_library);
    result.log = given.log;
    result.log_user = given.log_user;
    result.fast_decode = given.fast_decode != 0;
    result.plain_files = given.plain_files != 0;
    return result;
}

std::vector<ImageInput> images_of(const oce_image* images, std::size_t image_size, std::size_t count) {
    if (image_size < sizeof(oce_image))
        throw InputError("image_size is " + std::to_string(image_size) + ": pass sizeof(oce_image)");
    if (images == nullptr && count > 0) throw InputError("images is null");
    std::vector<ImageInput> result;
    result.reserve(count);
    const auto* bytes = reinterpret_cast<const unsigned char*>(images);
    for (std::size_t index = 0; index < count; ++index) {
        oce_image image{};
        std::memcpy(&image, bytes + index * image_size, sizeof(image));
        result.push_back(image_of(image, index));
    }
    return result;
}

std::vector<std::string_view> texts_of(const oce_text* texts, std::size_t count, const char* name) {
    if (texts == nullptr && count > 0) throw InputError(std::string(name) + " is null");
    std::vector<std::string_view> result;
    result.reserve(count);
    for (std::size_t index = 0; index < count; ++index) {
        if (texts[index].data == nullptr && texts[index].bytes > 0) {
            throw InputError(std::string(name) + "[" + std::to_string(index) + "] has no data");
        }
        result.emplace_back(texts[index].data != nullptr ? texts[index].data : "", texts[index].bytes);
    }
    return result;
}

}  // namespace oce::core
