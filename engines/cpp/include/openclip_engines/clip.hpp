// The C++ API of openclip_engines: classes over the C API in clip.h, in this header alone, so that a program and the library need
// not be built by one compiler. C++20.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "openclip_engines/clip.h"

namespace oce {

/// Base of all errors; the message names the problem and its remedy in one sentence. `engines.errors` in Python has the same
/// classes.
class EngineError : public std::runtime_error {
public:
    EngineError(oce_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
    /// The C API's status.
    [[nodiscard]] oce_status status() const noexcept { return status_; }

private:
    oce_status status_;
};

/// The folder is not a usable bundle: a file is missing, edited, truncated, or lies outside the folder.
class BundleError : public EngineError {
public:
    using EngineError::EngineError;
};

/// The manifest was written by a newer release than this one.
class SchemaVersionError : public BundleError {
public:
    using BundleError::BundleError;
};

/// The bundle has no engine that can run here; the message has the reason for each.
class EngineUnavailableError : public EngineError {
public:
    using EngineError::EngineError;
};

/// An argument has the wrong size or range.
class InputError : public EngineError {
public:
    using EngineError::EngineError;
};

/// An image cannot be read.
class ImageError : public InputError {
public:
    using InputError::InputError;
};

/// Throw the exception of a status; nothing for OCE_OK. No memory is std::bad_alloc.
inline void check(oce_status status) {
    if (status == OCE_OK) return;
    const std::string message = oce_last_error();
    switch (status) {
        case OCE_BUNDLE_ERROR:
            throw BundleError(status, message);
        case OCE_SCHEMA_VERSION_ERROR:
            throw SchemaVersionError(status, message);
        case OCE_ENGINE_UNAVAILABLE:
            throw EngineUnavailableError(status, message);
        case OCE_INPUT_ERROR:
            throw InputError(status, message);
        case OCE_IMAGE_ERROR:
            throw ImageError(status, message);
        case OCE_OUT_OF_MEMORY:
            throw std::bad_alloc();
        case OCE_INTERNAL_ERROR:
            throw std::logic_error(message);
        default:
            throw EngineError(status, message);
    }
}

/// Options of Clip::open; the comments of oce_options in clip.h describe them.
struct Options {
    std::string engine = "auto";
    std::string device = "auto";
    std::uint32_t towers = 0;
    int workers = 0;
    std::int64_t max_pixels = 0;
    int threads = 0;
    int device_id = 0;
    std::int64_t cuda_memory_limit = 0;
    bool allow_cpu_nodes = false;
    std::string module_folder;   // empty: the default
    std::string engine_library;  // empty: the default
    oce_log_function log = nullptr;
    void* log_user = nullptr;
    bool fast_decode = false;
    bool plain_files = false;
};

/// One image; it points to the caller's memory.
class Image {
public:
    /// An image file by its path, UTF-8.
    static Image path(std::string_view path) { return Image({OCE_IMAGE_PATH, 0, 0, 0, 0, path.data(), path.size()}); }
    /// The content of an image file.
    static Image bytes(std::span<const std::uint8_t> content) {
        return Image({OCE_IMAGE_BYTES, 0, 0, 0, 0, content.data(), content.size()});
    }
    /// RGB pixels, 8 bits a channel, with rows `stride` bytes apart (0: without gaps).
    static Image rgb(std::span<const std::uint8_t> pixels, int width, int height, std::int64_t stride = 0) {
        return Image({OCE_IMAGE_RGB, width, height, 0, stride, pixels.data(), pixels.size()});
    }
    [[nodiscard]] const oce_image& c_image() const noexcept { return image_; }

private:
    explicit Image(oce_image image) : image_(image) {}
    oce_image image_;
};
static_assert(sizeof(Image) == sizeof(oce_image), "arrays of Image are arrays of oce_image");

/// An image that could not be read.
struct Failure {
    std::size_t index = 0;
    std::string message;
};

namespace detail {
inline const char* or_null(const std::string& text) {
    return text.empty() ? nullptr : text.c_str();
}

inline oce_options c_options(const Options& options) {
    oce_options result;
    oce_options_init(&result, sizeof(result));
    result.engine = options.engine.c_str();
    result.device = options.device.c_str();
    result.towers = options.towers;
    result.workers = options.workers;
    result.max_pixels = options.max_pixels;
    result.threads = options.threads;
    result.device_id = options.device_id;
    result.cuda_memory_limit = options.cuda_memory_limit;
    result.allow_cpu_nodes = options.allow_cpu_nodes ? 1 : 0;
    result.module_folder = or_null(options.module_folder);
    result.engine_library = or_null(options.engine_library);
    result.log = options.log;
    result.log_user = options.log_user;
    result.fast_decode = options.fast_decode ? 1 : 0;
    result.plain_files = options.plain_files ? 1 : 0;
    return result;
}

inline std::vector<oce_text> c_texts(std::span<const std::string_view> texts) {
    std::vector<oce_text> result;
    result.reserve(texts.size());
    for (const std::string_view text : texts) result.push_back({text.data(), text.size()});
    return result;
}

inline void add_failure(void* user, std::size_t index, oce_status /*status*/, const char* message) {
    static_cast<std::vector<Failure>*>(user)->push_back({index, message});
}

inline std::string owned(char* text) {
    const std::unique_ptr<char, decltype(&oce_string_free)> owner(text, &oce_string_free);
    return text;
}
}  // namespace detail

/// An opened bundle. Many threads may call it.
class Clip {
public:
    /// Open a bundle. Throws BundleError, InputError or EngineUnavailableError.
    static Clip open(const std::string& path, const Options& options = {}) {
        const oce_options c_options = detail::c_options(options);
        oce_clip* clip = nullptr;
        check(oce_clip_open(path.c_str(), &c_options, &clip));
        return Clip(clip);
    }

    /// Properties: embed_dim, image_height, …
    [[nodiscard]] const oce_info& info() const noexcept { return info_; }
    /// Length D of an embedding.
    [[nodiscard]] std::size_t embed_dim() const noexcept { return static_cast<std::size_t>(info_.embed_dim); }
    /// Library, version and processor of a tower's engine; empty if it is not open.
    [[nodiscard]] std::string engine(oce_tower tower) const {
        const char* text = oce_clip_engine(clip_.get(), tower);
        return text != nullptr ? text : "";
    }

    /// Embeddings of images, (N, D) float32, each row of length 1. The first image that cannot be read throws ImageError.
    [[nodiscard]] std::vector<float> encode_images(std::span<const Image> images) const {
        std::vector<float> embeds(images.size() * embed_dim());
        encode_images(images, embeds);
        return embeds;
    }
    /// The same, into the caller's N * D floats.
    void encode_images(std::span<const Image> images, std::span<float> embeds) const {
        check(oce_encode_images(clip_.get(), c_images(images), sizeof(oce_image), images.size(), embeds.data(), embeds.size(),
                                nullptr, nullptr));
    }
    /// The same; images that cannot be read are added to `failures`, and their rows are NaN.
    void encode_images(std::span<const Image> images, std::span<float> embeds, std::vector<Failure>& failures) const {
        check(oce_encode_images(clip_.get(), c_images(images), sizeof(oce_image), images.size(), embeds.data(), embeds.size(),
                                detail::add_failure, &failures));
    }

    /// Embeddings of texts (UTF-8), (N, D) float32.
    [[nodiscard]] std::vector<float> encode_texts(std::span<const std::string_view> texts) const {
        std::vector<float> embeds(texts.size() * embed_dim());
        encode_texts(texts, embeds);
        return embeds;
    }
    [[nodiscard]] std::vector<float> encode_texts(std::initializer_list<std::string_view> texts) const {
        return encode_texts(std::span(texts.begin(), texts.size()));
    }
    void encode_texts(std::span<const std::string_view> texts, std::span<float> embeds) const {
        const std::vector<oce_text> c_texts = detail::c_texts(texts);
        check(oce_encode_texts(clip_.get(), c_texts.data(), c_texts.size(), embeds.data(), embeds.size()));
    }

    /// Pixels of images, (N, H, W, 3) uint8.
    [[nodiscard]] std::vector<std::uint8_t> preprocess(std::span<const Image> images) const {
        std::vector<std::uint8_t> pixels(images.size() * static_cast<std::size_t>(info_.image_height) *
                                         static_cast<std::size_t>(info_.image_width) * 3);
        check(oce_preprocess(clip_.get(), c_images(images), sizeof(oce_image), images.size(), pixels.data(), pixels.size(), nullptr,
                             nullptr));
        return pixels;
    }
    /// Token ids of texts, (N, context length) int32.
    [[nodiscard]] std::vector<std::int32_t> tokenize(std::span<const std::string_view> texts) const {
        std::vector<std::int32_t> ids(texts.size() * static_cast<std::size_t>(info_.context_length));
        const std::vector<oce_text> c_texts = detail::c_texts(texts);
        check(oce_tokenize(clip_.get(), c_texts.data(), c_texts.size(), ids.data(), ids.size()));
        return ids;
    }

    /// Embeddings of labels, (labels, D), each the normalized mean over its prompts; a template has {} in the place of the label.
    [[nodiscard]] std::vector<float> encode_labels(std::span<const std::string_view> labels,
                                                   std::span<const std::string_view> templates = {}) const {
        std::vector<float> embeds(labels.size() * embed_dim());
        const std::vector<oce_text> c_labels = detail::c_texts(labels);
        const std::vector<oce_text> c_templates = detail::c_texts(templates);
        check(oce_encode_labels(clip_.get(), c_labels.data(), c_labels.size(), c_templates.data(), c_templates.size(),
                                embeds.data(), embeds.size()));
        return embeds;
    }
    /// Probabilities (images, labels) of embeddings: a softmax over the labels, or each label's own where the model has a logit
    /// bias.
    [[nodiscard]] std::vector<float> probabilities(std::span<const float> image_embeds, std::span<const float> label_embeds) const {
        const std::size_t images = image_embeds.size() / embed_dim();
        const std::size_t labels = label_embeds.size() / embed_dim();
        std::vector<float> result(images * labels);
        check(
            oce_probabilities(clip_.get(), image_embeds.data(), images, label_embeds.data(), labels, result.data(), result.size()));
        return result;
    }
    /// Zero-shot classification: (images, labels) probabilities.
    [[nodiscard]] std::vector<float> classify(std::span<const Image> images, std::span<const std::string_view> labels,
                                              std::span<const std::string_view> templates = {}) const {
        const std::vector<float> label_embeds = encode_labels(labels, templates);
        return probabilities(encode_images(images), label_embeds);
    }

private:
    explicit Clip(oce_clip* clip) : clip_(clip, &oce_clip_close) {
        info_.size = sizeof(info_);
        check(oce_clip_info(clip, &info_));
    }
    static const oce_image* c_images(std::span<const Image> images) { return images.empty() ? nullptr : &images.front().c_image(); }

    std::unique_ptr<oce_clip, decltype(&oce_clip_close)> clip_;
    oce_info info_{};
};

/// JSON of a bundle's content, and for each engine whether it can run here, or why not.
inline std::string inspect(const std::string& path, const Options& options = {}) {
    const oce_options c_options = detail::c_options(options);
    char* json = nullptr;
    check(oce_inspect(path.c_str(), &c_options, &json));
    return detail::owned(json);
}

/// JSON of the checks of a bundle's files, embeddings, pixels and ids; its "passed" is the verdict.
inline std::string verify(const std::string& path, const Options& options = {}) {
    const oce_options c_options = detail::c_options(options);
    char* json = nullptr;
    check(oce_verify(path.c_str(), &c_options, &json));
    return detail::owned(json);
}

}  // namespace oce
