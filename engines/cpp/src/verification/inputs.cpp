// Hard pictures and captions of the reference file: their pixels and ids on this machine.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "bundle/files.hpp"
#include "errors.hpp"
#include "image/preprocess.hpp"
#include "text/tokenizer.hpp"
#include "verification/comparisons.hpp"

namespace oce::core {
namespace {

using Json = nlohmann::json;

constexpr const char* kFiles = "picture_files/";
constexpr const char* kPixels = "picture_pixels/";
// Largest difference for JPEG: decoders may round the cosine transform up or down.
constexpr int kLossyLevels = 4;
constexpr std::size_t kNamed = 3;  // largest number of captions in messages

std::string version_there(const Manifest& manifest, const std::string& package) {
    const auto found = manifest.created_with.find(package);
    return package + " " + (found == manifest.created_with.end() ? "of an unknown version" : found->second);
}

int side_count(int side, int step) {
    return (side + step - 1) / step;
}

/// The largest difference of a picture's pixels, in levels.
int largest_error(const std::vector<std::uint8_t>& pixels, const NpyArray& expected, int step, const Preprocess& config) {
    int largest = 0;
    std::size_t at = 0;
    for (int row = 0; row < config.height; row += step) {
        for (int column = 0; column < config.width; column += step) {
            for (int channel = 0; channel < 3; ++channel, ++at) {
                const std::size_t place =
                    (static_cast<std::size_t>(row) * static_cast<std::size_t>(config.width) + static_cast<std::size_t>(column)) *
                        3 +
                    static_cast<std::size_t>(channel);
                largest = std::max(largest, std::abs(static_cast<int>(pixels[place]) - static_cast<int>(expected.data[at])));
            }
        }
    }
    return largest;
}

int step_of(const Arrays& arrays) {
    const NpyArray& array = array_of(arrays, "picture_step", "int32", 0);
    std::int32_t step = 0;
    std::memcpy(&step, array.data.data(), sizeof(step));
    if (step < 1) throw std::invalid_argument("picture_step is " + std::to_string(step) + ", and must be 1 or more");
    return step;
}

}  // namespace

Json compare_pixels(const Manifest& manifest, const Arrays& arrays) {
    const Preprocess& config = manifest.preprocess;
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(config.height) * static_cast<std::size_t>(config.width) * 3);
    std::size_t pictures = 0;
    int largest = 0;
    Json failures = Json::array();
    for (const auto& [key, unused] : arrays) {
        if (key.rfind(kFiles, 0) != 0) continue;
        const std::string name = key.substr(std::strlen(kFiles));
        const NpyArray& file = array_of(arrays, key, "uint8", 1);
        const NpyArray& expected = array_of(arrays, kPixels + name, "uint8", 3);
        const int step = step_of(arrays);
        const std::vector<std::int64_t> shape{side_count(config.height, step), side_count(config.width, step), 3};
        if (expected.shape != shape) throw std::invalid_argument("the pixels of " + name + " have another shape");
        ++pictures;
        std::string problem;
        try {
            preprocess(ImageBytes{{reinterpret_cast<const char*>(file.data.data()), file.data.size()}}, config, {}, pixels);
            const int error = largest_error(pixels, expected, step, config);
            const int limit = name.ends_with(".jpg") ? kLossyLevels : 0;
            largest = std::max(largest, error);
            if (error > limit) {
                problem =
                    "its pixels differ by up to " + std::to_string(error) + " levels of 255 (limit " + std::to_string(limit) + ")";
            }
        } catch (const ImageError& error) {
            largest = 255;
            problem = std::string("it cannot be read here (") + error.what() + ")";
        }
        if (!problem.empty()) {
            failures.push_back("picture " + name + ": " + problem + "; the bundle was exported with " +
                               version_there(manifest, "pillow"));
        }
    }
    if (pictures == 0) return nullptr;
    const bool passed = failures.empty();
    return {{"pictures", pictures}, {"max_error", largest}, {"failures", std::move(failures)}, {"passed", passed}};
}

Json compare_ids(const std::filesystem::path& bundle, const Manifest& manifest, const Arrays& arrays) {
    if (!manifest.tokenizer || !arrays.contains("caption_texts")) return nullptr;
    const NpyArray& texts_array = array_of(arrays, "caption_texts", "uint8", 1);
    const NpyArray& expected = array_of(arrays, "caption_ids", "int32", 2);
    const Json parsed = Json::parse(texts_array.data.begin(), texts_array.data.end(), nullptr, false);
    if (!parsed.is_array() || !std::all_of(parsed.begin(), parsed.end(), [](const Json& text) { return text.is_string(); })) {
        throw std::invalid_argument("caption_texts is no list of captions");
    }
    const auto width = static_cast<std::size_t>(manifest.tokenizer->context_length);
    if (expected.shape != std::vector<std::int64_t>{static_cast<std::int64_t>(parsed.size()), static_cast<std::int64_t>(width)}) {
        throw std::invalid_argument("caption_ids has another shape than its captions need");
    }
    if (parsed.empty()) return nullptr;
    const TextTokenizer tokenizer(resolve_path(bundle, manifest.tokenizer->file), *manifest.tokenizer);
    std::vector<std::int32_t> ids(width);
    std::vector<std::int32_t> wanted(width);
    std::size_t wrong = 0;
    Json failures = Json::array();
    for (std::size_t row = 0; row < parsed.size(); ++row) {
        tokenizer.encode(parsed[row].get_ref<const std::string&>(), ids);
        std::memcpy(wanted.data(), &expected.data[row * width * sizeof(std::int32_t)], width * sizeof(std::int32_t));
        if (ids == wanted) continue;
        const auto position = static_cast<std::size_t>(std::mismatch(ids.begin(), ids.end(), wanted.begin()).first - ids.begin());
        if (wrong++ < kNamed) {
            failures.push_back("caption " + parsed[row].dump(-1, ' ', true) + ": id " + std::to_string(ids[position]) +
                               " instead of " + std::to_string(wanted[position]) + " at position " + std::to_string(position) +
                               "; the bundle was exported with " + version_there(manifest, "tokenizers") + " and " +
                               version_there(manifest, "ftfy"));
        }
    }
    return {{"captions", parsed.size()}, {"failures", std::move(failures)}, {"passed", wrong == 0}};
}

}  // namespace oce::core
