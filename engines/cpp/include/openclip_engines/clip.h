/* The C API of openclip_engines: a bundle is opened once, and many threads embed images and texts with it.
 *
 * Rules that hold for every function:
 * - It returns an oce_status. After any status but OCE_OK, oce_last_error() of the same thread has one sentence with the problem and
 *   its remedy. A call that failed changed nothing: the object can be used as before (but see oce_status_class).
 * - Nothing is thrown, and no input ends the process.
 * - Texts and paths are UTF-8 and need no zero at their end where a length is passed.
 * - A pointer that a function returns belongs to the object that it was asked of, unless the function says otherwise.
 * - Structs begin with `size`, the caller's sizeof of the struct. Later releases add fields at the end only.
 */
#ifndef OPENCLIP_ENGINES_CLIP_H
#define OPENCLIP_ENGINES_CLIP_H

#include <stddef.h>
#include <stdint.h>

#define OCE_VERSION_MAJOR 0
#define OCE_VERSION_MINOR 1
#define OCE_VERSION_PATCH 0

#if defined(OCE_STATIC)
#define OCE_API
#elif defined(OCE_BUILDING)
#define OCE_API __attribute__((visibility("default")))
#else
#define OCE_API
#endif

#ifdef __cplusplus
extern "C" {
#define OCE_NOEXCEPT noexcept
#else
#define OCE_NOEXCEPT
#endif

/* Result of a call. The errors are those of the Python package's `engines.errors`. */
typedef enum oce_status {
    OCE_OK = 0,
    OCE_ENGINE_ERROR = 1,         /* the engine failed, or gave NaN; or a file cannot be read */
    OCE_BUNDLE_ERROR = 2,         /* the folder is not a usable bundle */
    OCE_SCHEMA_VERSION_ERROR = 3, /* a newer release wrote the bundle */
    OCE_ENGINE_UNAVAILABLE = 4,   /* no engine of the bundle can run here, or this release lacks a part that it needs */
    OCE_INPUT_ERROR = 5,          /* an argument has the wrong size or range */
    OCE_IMAGE_ERROR = 6,          /* an image cannot be read */
    OCE_OUT_OF_MEMORY = 7,        /* no memory was left for this call */
    OCE_INTERNAL_ERROR = 8        /* a mistake of this library */
} oce_status;

/* What a caller can do about a status. */
typedef enum oce_status_class {
    OCE_CLASS_OK = 0,
    OCE_CLASS_BAD_INPUT = 1,   /* the same call fails again; other calls work */
    OCE_CLASS_RETRY = 2,       /* the same call may work later */
    OCE_CLASS_UNSUPPORTED = 3, /* this machine or this release cannot do it */
    OCE_CLASS_FATAL = 4        /* close the object */
} oce_status_class;

typedef enum oce_tower { OCE_IMAGE = 1, OCE_TEXT = 2 } oce_tower;

typedef enum oce_log_level { OCE_LOG_INFO = 1, OCE_LOG_WARNING = 2 } oce_log_level;

typedef struct oce_clip oce_clip;

/* A line of the library's log; it is called in the thread that opens the bundle, and must not call the library. */
typedef void (*oce_log_function)(void* user, oce_log_level level, const char* line);

/* Options of oce_clip_open. Make them with oce_options_init, so that later fields have their defaults. Pointers must live until
 * oce_clip_open returns, `log_user` as long as the object. */
typedef struct oce_options {
    size_t size;
    const char* engine;          /* "auto" (default), a kind of engine, or "none": preprocess and tokenize only, no engine is opened */
    const char* device;          /* "auto" (default), "cpu" or "cuda" */
    uint32_t towers;             /* OCE_IMAGE | OCE_TEXT; 0 (default): all of the bundle */
    int32_t workers;             /* threads that decode images; 0 (default): one per core that this process may use */
    int64_t max_pixels;          /* largest width x height of an image that is decoded; 0 (default): 178,956,970 */
    int32_t threads;             /* threads of one run of an engine on the CPU; 0 (default): one per physical core */
    int32_t device_id;           /* number of the GPU; default 0 */
    int64_t cuda_memory_limit;   /* bytes of device memory for one tower of ONNX Runtime; 0 (default): 16 GiB */
    int32_t allow_cpu_nodes;     /* 1: ONNX Runtime may run nodes of a graph on the CPU that the GPU has no kernel for; default 0 */
    const char* module_folder;   /* folder of the engine modules; null (default): OCE_MODULES, then beside the library */
    const char* engine_library;  /* path of the engine's own library (libonnxruntime.so.1); null (default): see docs/cpp.md */
    oce_log_function log;        /* null (default): no log */
    void* log_user;
    int32_t fast_decode;         /* 1: decode large JPEG files at 1/2, 1/4 or 1/8 of their size, see docs/cpp.md; default 0 */
    int32_t plain_files;         /* 1: refuse image files with unusual content, see docs/cpp.md; default 0 */
} oce_options;

/* Properties of an opened bundle. */
typedef struct oce_info {
    size_t size;
    uint32_t towers;         /* OCE_IMAGE | OCE_TEXT: towers that were opened */
    int32_t embed_dim;       /* D, length of an embedding */
    int32_t image_height;    /* pixels of the image tower's input */
    int32_t image_width;
    int32_t context_length;  /* ids in a row; 0 without a text tower */
    int32_t has_logit_bias;  /* 1: a model that was trained with a sigmoid loss */
    double logit_scale;
    double logit_bias;
} oce_info;

typedef enum oce_image_kind {
    OCE_IMAGE_PATH = 0,  /* data: a path of `bytes` bytes */
    OCE_IMAGE_BYTES = 1, /* data: the content of an image file, `bytes` bytes */
    OCE_IMAGE_RGB = 2    /* data: RGB pixels, 8 bits a channel, `width`, `height`, `stride` */
} oce_image_kind;

/* One image. Functions take the struct's size with the array, so that arrays of an older release's struct work. */
typedef struct oce_image {
    int32_t kind; /* oce_image_kind */
    int32_t width;
    int32_t height;
    int32_t reserved;   /* 0 */
    int64_t stride;     /* bytes from one row to the next; 0: width * 3 */
    const void* data;
    size_t bytes;       /* RGB: size of the buffer */
} oce_image;

/* One text of `bytes` bytes. A byte that is no part of valid UTF-8 is read as U+FFFD (docs/cpp.md has the exact rule). */
typedef struct oce_text {
    const char* data;
    size_t bytes;
} oce_text;

/* Called for an image that cannot be read, in the calling thread; the other images are embedded, and this image's row is NaN. */
typedef void (*oce_failure_function)(void* user, size_t index, oce_status status, const char* message);

/* ---- the library ---- */

/* Version of the library that runs: 10000 * major + 100 * minor + patch. */
OCE_API int oce_version(void) OCE_NOEXCEPT;
/* The sentence of this thread's last call that failed; "" if none did. Valid until the thread's next call. */
OCE_API const char* oce_last_error(void) OCE_NOEXCEPT;
/* "bundle error" … */
OCE_API const char* oce_status_name(oce_status status) OCE_NOEXCEPT;
OCE_API oce_status_class oce_class_of(oce_status status) OCE_NOEXCEPT;

/* ---- open and close ---- */

/* Bytes of the library's own oce_options. Fields of the caller's struct that lie behind it are not known to the library. */
OCE_API size_t oce_options_size(void) OCE_NOEXCEPT;
/* Write the defaults. size: sizeof(oce_options). */
OCE_API void oce_options_init(oce_options* options, size_t size) OCE_NOEXCEPT;
/* Open a bundle. options: may be null. clip: receives the object, or null on failure. */
OCE_API oce_status oce_clip_open(const char* path, const oce_options* options, oce_clip** clip) OCE_NOEXCEPT;
/* Free the object; null is allowed. No other call may be running or follow. */
OCE_API void oce_clip_close(oce_clip* clip) OCE_NOEXCEPT;
/* info->size must be set by the caller. */
OCE_API oce_status oce_clip_info(const oce_clip* clip, oce_info* info) OCE_NOEXCEPT;
/* Library, version and processor of a tower's engine, such as "onnxruntime 1.32.0 CPUExecutionProvider"; null if it is not open. */
OCE_API const char* oce_clip_engine(const oce_clip* clip, oce_tower tower) OCE_NOEXCEPT;

/* ---- embed ---- */

/* Embed images.
 *
 * images: `count` structs of `image_size` bytes (sizeof(oce_image)), at least one.
 * embeds: receives (count, D) float32, each row of length 1.
 * embeds_count: number of floats in `embeds`; must be count * D.
 * failure: null: the first image that cannot be read fails the call (OCE_IMAGE_ERROR, with its index in the message).
 */
OCE_API oce_status oce_encode_images(oce_clip* clip, const oce_image* images, size_t image_size, size_t count, float* embeds,
                                     size_t embeds_count, oce_failure_function failure, void* user) OCE_NOEXCEPT;
/* Embed pixels (count, H, W, 3) uint8 that are resized and cropped already, as oce_preprocess writes them. */
OCE_API oce_status oce_encode_pixels(oce_clip* clip, const uint8_t* pixels, size_t count, float* embeds,
                                     size_t embeds_count) OCE_NOEXCEPT;
/* Embed texts: (count, D) float32. */
OCE_API oce_status oce_encode_texts(oce_clip* clip, const oce_text* texts, size_t count, float* embeds,
                                    size_t embeds_count) OCE_NOEXCEPT;
/* Embed token ids (count, length) int32, `length` up to the context length. */
OCE_API oce_status oce_encode_ids(oce_clip* clip, const int32_t* ids, size_t count, size_t length, float* embeds,
                                  size_t embeds_count) OCE_NOEXCEPT;

/* Pixels of images, (count, H, W, 3) uint8, decoded by the object's threads. `failure`: as above; such an image's pixels are 0. */
OCE_API oce_status oce_preprocess(oce_clip* clip, const oce_image* images, size_t image_size, size_t count, uint8_t* pixels,
                                  size_t pixels_count, oce_failure_function failure, void* user) OCE_NOEXCEPT;
/* Token ids of texts, (count, context length) int32. */
OCE_API oce_status oce_tokenize(oce_clip* clip, const oce_text* texts, size_t count, int32_t* ids, size_t ids_count) OCE_NOEXCEPT;

/* ---- zero-shot classification ---- */

/* Embeddings of labels, (label_count, D): each the normalized mean over its prompts. A template has {} in the place of the label;
 * without templates (null, 0) a label is its own prompt. */
OCE_API oce_status oce_encode_labels(oce_clip* clip, const oce_text* labels, size_t label_count, const oce_text* templates,
                                     size_t template_count, float* embeds, size_t embeds_count) OCE_NOEXCEPT;
/* Probabilities (image_count, label_count) float32: a softmax over the labels, or each label's own where the model has a logit bias.
 */
OCE_API oce_status oce_probabilities(const oce_clip* clip, const float* image_embeds, size_t image_count, const float* label_embeds,
                                     size_t label_count, float* probabilities, size_t probabilities_count) OCE_NOEXCEPT;

/* ---- look and check; both return JSON that oce_string_free frees ---- */

/* A bundle's model, towers and engines, and for each engine whether it can run here, or why not. */
OCE_API oce_status oce_inspect(const char* path, const oce_options* options, char** json) OCE_NOEXCEPT;
/* Check every file's checksum, and this machine's embeddings, pixels and ids against those of the bundle's reference file.
 * The status is OCE_OK also where a check failed; "passed" in the JSON has the verdict. */
OCE_API oce_status oce_verify(const char* path, const oce_options* options, char** json) OCE_NOEXCEPT;
OCE_API void oce_string_free(char* text) OCE_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
