// The C API: every function checks its arguments, calls the library, and turns exceptions into a status and this thread's message.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "api/arguments.hpp"
#include "api/embedder.hpp"
#include "errors.hpp"
#include "openclip_engines/clip.h"
#include "verification/report.hpp"

struct oce_clip {
    oce_clip(const std::string& path, const oce::core::Options& options) : embedder(path, options) {}
    oce::core::Embedder embedder;
};

namespace {

using namespace oce::core;

/// The sentence of this thread's last failure. A std::string would allocate, which can fail exactly where it is needed.
thread_local char last_error[4096];

oce_status failed(oce_status status, const char* message) noexcept {
    std::strncpy(last_error, message, sizeof(last_error) - 1);
    return status;
}

template <typename Function>
oce_status guarded(Function&& function) noexcept {
    try {
        last_error[0] = '\0';
        function();
        return OCE_OK;
    } catch (const EngineError& error) {
        return failed(error.status(), error.what());
    } catch (const std::bad_alloc&) {
        return failed(OCE_OUT_OF_MEMORY, "no memory is left for this call: pass fewer inputs, or lower max_pixels");
    } catch (const std::exception& error) {
        return failed(OCE_INTERNAL_ERROR, error.what());
    } catch (...) {
        return failed(OCE_INTERNAL_ERROR, "an exception of an unknown kind");
    }
}

Embedder& opened(oce_clip* clip) {
    if (clip == nullptr) throw InputError("clip is null: open a bundle with oce_clip_open");
    return clip->embedder;
}

const Embedder& opened(const oce_clip* clip) {
    if (clip == nullptr) throw InputError("clip is null: open a bundle with oce_clip_open");
    return clip->embedder;
}

/// Check the size of a caller's array for results.
void check_room(const char* name, const void* array, std::size_t given, std::size_t rows, std::size_t width) {
    std::size_t needed = 0;
    if (__builtin_mul_overflow(rows, width, &needed) || given != needed) {
        throw InputError(std::string(name) + " has room for " + std::to_string(given) + " values, and needs " +
                         std::to_string(rows) + " x " + std::to_string(width));
    }
    if (array == nullptr && needed > 0) throw InputError(std::string(name) + " is null");
}

void check_given(const char* name, const void* array, std::size_t count) {
    if (array == nullptr && count > 0) throw InputError(std::string(name) + " is null");
}

FailureFunction failures_to(oce_failure_function function, void* user) {
    if (function == nullptr) return {};
    return
        [function, user](const ImageFailure& failure) { function(user, failure.index, failure.status, failure.message.c_str()); };
}

void write_json(const std::string& text, char** json) {
    auto* copy = new char[text.size() + 1];  // oce_string_free deletes it
    std::memcpy(copy, text.c_str(), text.size() + 1);
    *json = copy;
}

std::string path_of(const char* path) {
    if (path == nullptr) throw InputError("path is null: pass the bundle's folder");
    return path;
}

}  // namespace

extern "C" {

int oce_version(void) noexcept {
    return OCE_VERSION_MAJOR * 10000 + OCE_VERSION_MINOR * 100 + OCE_VERSION_PATCH;
}

const char* oce_last_error(void) noexcept {
    return last_error;
}

const char* oce_status_name(oce_status status) noexcept {
    switch (status) {
        case OCE_OK:
            return "ok";
        case OCE_ENGINE_ERROR:
            return "engine error";
        case OCE_BUNDLE_ERROR:
            return "bundle error";
        case OCE_SCHEMA_VERSION_ERROR:
            return "schema version error";
        case OCE_ENGINE_UNAVAILABLE:
            return "engine unavailable";
        case OCE_INPUT_ERROR:
            return "input error";
        case OCE_IMAGE_ERROR:
            return "image error";
        case OCE_OUT_OF_MEMORY:
            return "out of memory";
        case OCE_INTERNAL_ERROR:
            return "internal error";
    }
    return "unknown status";
}

oce_status_class oce_class_of(oce_status status) noexcept {
    switch (status) {
        case OCE_OK:
            return OCE_CLASS_OK;
        case OCE_BUNDLE_ERROR:
        case OCE_INPUT_ERROR:
        case OCE_IMAGE_ERROR:
            return OCE_CLASS_BAD_INPUT;
        case OCE_ENGINE_ERROR:
        case OCE_OUT_OF_MEMORY:
            return OCE_CLASS_RETRY;
        case OCE_SCHEMA_VERSION_ERROR:
        case OCE_ENGINE_UNAVAILABLE:
            return OCE_CLASS_UNSUPPORTED;
        case OCE_INTERNAL_ERROR:
            return OCE_CLASS_FATAL;
    }
    return OCE_CLASS_FATAL;
}

size_t oce_options_size(void) noexcept {
    return sizeof(oce_options);
}

void oce_options_init(oce_options* options, size_t size) noexcept {
    if (options == nullptr) return;
    std::memset(options, 0, size);
    if (size >= sizeof(size_t)) options->size = size;
}

oce_status oce_clip_open(const char* path, const oce_options* options, oce_clip** clip) noexcept {
    return guarded([&] {
        if (clip == nullptr) throw InputError("clip is null: pass the address of a pointer");
        *clip = nullptr;
        const std::string folder = path_of(path);
        *clip = std::make_unique<oce_clip>(folder, options_of(options)).release();
    });
}

void oce_clip_close(oce_clip* clip) noexcept {
    delete clip;
}

oce_status oce_clip_info(const oce_clip* clip, oce_info* info) noexcept {
    return guarded([&] {
        const Embedder& embedder = opened(clip);
        if (info == nullptr || info->size < sizeof(size_t)) throw InputError("info is null, or its size is not set");
        const Manifest& manifest = embedder.manifest();
        oce_info known{};
        known.size = info->size;
        if (embedder.opened(TowerName::image)) known.towers |= OCE_IMAGE;
        if (embedder.opened(TowerName::text)) known.towers |= OCE_TEXT;
        known.embed_dim = static_cast<int32_t>(manifest.model.embed_dim);
        known.image_height = manifest.preprocess.height;
        known.image_width = manifest.preprocess.width;
        known.context_length = static_cast<int32_t>(embedder.context_length());
        known.has_logit_bias = manifest.model.logit_bias ? 1 : 0;
        known.logit_scale = manifest.model.logit_scale;
        known.logit_bias = manifest.model.logit_bias.value_or(0);
        std::memcpy(info, &known, std::min(known.size, sizeof(known)));
    });
}

const char* oce_clip_engine(const oce_clip* clip, oce_tower tower) noexcept {
    if (clip == nullptr) return nullptr;
    const std::string* engine = clip->embedder.engine(tower == OCE_TEXT ? TowerName::text : TowerName::image);
    return engine != nullptr ? engine->c_str() : nullptr;
}

oce_status oce_encode_images(oce_clip* clip, const oce_image* images, size_t image_size, size_t count, float* embeds,
                             size_t embeds_count, oce_failure_function failure, void* user) noexcept {
    return guarded([&] {
        Embedder& embedder = opened(clip);
        check_room("embeds", embeds, embeds_count, count, embedder.embed_dim());
        embedder.encode_images(images_of(images, image_size, count), embeds, failures_to(failure, user));
    });
}

oce_status oce_encode_pixels(oce_clip* clip, const uint8_t* pixels, size_t count, float* embeds, size_t embeds_count) noexcept {
    return guarded([&] {
        const Embedder& embedder = opened(clip);
        check_room("embeds", embeds, embeds_count, count, embedder.embed_dim());
        check_given("pixels", pixels, count);
        embedder.encode_pixels(pixels, count, embeds);
    });
}

oce_status oce_encode_texts(oce_clip* clip, const oce_text* texts, size_t count, float* embeds, size_t embeds_count) noexcept {
    return guarded([&] {
        const Embedder& embedder = opened(clip);
        check_room("embeds", embeds, embeds_count, count, embedder.embed_dim());
        embedder.encode_texts(texts_of(texts, count, "texts"), embeds);
    });
}

oce_status oce_encode_ids(oce_clip* clip, const int32_t* ids, size_t count, size_t length, float* embeds,
                          size_t embeds_count) noexcept {
    return guarded([&] {
        const Embedder& embedder = opened(clip);
        check_room("embeds", embeds, embeds_count, count, embedder.embed_dim());
        check_given("ids", ids, count);
        embedder.encode_ids(ids, count, length, embeds);
    });
}

oce_status oce_preprocess(oce_clip* clip, const oce_image* images, size_t image_size, size_t count, uint8_t* pixels,
                          size_t pixels_count, oce_failure_function failure, void* user) noexcept {
    return guarded([&] {
        Embedder& embedder = opened(clip);
        check_room("pixels", pixels, pixels_count, count, embedder.image_bytes());
        embedder.preprocess(images_of(images, image_size, count), pixels, failures_to(failure, user));
    });
}

oce_status oce_tokenize(oce_clip* clip, const oce_text* texts, size_t count, int32_t* ids, size_t ids_count) noexcept {
    return guarded([&] {
        const Embedder& embedder = opened(clip);
        check_room("ids", ids, ids_count, count, embedder.context_length());
        embedder.tokenize(texts_of(texts, count, "texts"), ids);
    });
}

oce_status oce_encode_labels(oce_clip* clip, const oce_text* labels, size_t label_count, const oce_text* templates,
                             size_t template_count, float* embeds, size_t embeds_count) noexcept {
    return guarded([&] {
        const Embedder& embedder = opened(clip);
        check_room("embeds", embeds, embeds_count, label_count, embedder.embed_dim());
        embedder.encode_labels(texts_of(labels, label_count, "labels"), texts_of(templates, template_count, "templates"), embeds);
    });
}

oce_status oce_probabilities(const oce_clip* clip, const float* image_embeds, size_t image_count, const float* label_embeds,
                             size_t label_count, float* probabilities, size_t probabilities_count) noexcept {
    return guarded([&] {
        const Embedder& embedder = opened(clip);
        check_room("probabilities", probabilities, probabilities_count, image_count, label_count);
        check_given("image_embeds", image_embeds, image_count);
        check_given("label_embeds", label_embeds, label_count);
        embedder.probabilities(image_embeds, image_count, label_embeds, label_count, probabilities);
    });
}

oce_status oce_inspect(const char* path, const oce_options* options, char** json) noexcept {
    return guarded([&] {
        if (json == nullptr) throw InputError("json is null: pass the address of a pointer");
        *json = nullptr;
        write_json(inspect_json(path_of(path), options_of(options)), json);
    });
}

oce_status oce_verify(const char* path, const oce_options* options, char** json) noexcept {
    return guarded([&] {
        if (json == nullptr) throw InputError("json is null: pass the address of a pointer");
        *json = nullptr;
        write_json(verify_json(path_of(path), options_of(options)), json);
    });
}

void oce_string_free(char* text) noexcept {
    delete[] text;
}

}  // extern "C"
