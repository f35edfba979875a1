/* The interface between the library and its engine modules: shared objects that run one kind of engine.
 *
 * A module exports one symbol, `oce_engine_module`, a constant oce_module. The library checks its magic number, its interface
 * version and its size before it calls anything. A module may throw nothing. The library opens modules with dlopen (RTLD_LOCAL),
 * from a folder that the caller names, from OCE_MODULES, or from the library's own folder; never from the working directory.
 *
 * A file is named `openclip_engines_<kind>.so`, with the kind of the bundle's manifest.
 */
#ifndef OPENCLIP_ENGINES_PLUGIN_H
#define OPENCLIP_ENGINES_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#include "openclip_engines/clip.h"

#define OCE_MODULE_MAGIC 0x4f43454du /* "OCEM" */
#define OCE_MODULE_INTERFACE 1u
#define OCE_MODULE_SYMBOL "oce_engine_module"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum oce_element { OCE_UINT8 = 1, OCE_INT32 = 2, OCE_FLOAT32 = 3 } oce_element;

/* A file with weights of a graph that is a link out of the graph's folder: its location in the graph, and its real path. */
typedef struct oce_weights_file {
    const char* location;
    const char* path;
} oce_weights_file;

/* The engine that the library asks for. All pointers live until the call returns. */
typedef struct oce_engine_request {
    size_t size;
    const char* path;          /* the engine's file: the ONNX graph, for engines that run it */
    const char* precision;     /* of the graph, as in the manifest */
    const char* device;        /* "auto", "cpu" or "cuda" */
    const char* target_device; /* of the manifest's engine entry; null: any */
    const char* library;       /* path of the engine's library that the caller named; null: the module searches */
    int32_t threads;           /* of one run on the CPU; 0: one per physical core */
    int32_t device_id;
    int64_t cuda_memory_limit; /* bytes */
    int32_t allow_cpu_nodes;
    int32_t input_element; /* oce_element */
    const char* input_name;
    const char* output_name;
    const int64_t* input_sizes; /* sizes of one row; -1: free (the length of a text) */
    size_t input_rank;          /* number of sizes */
    int64_t embed_dim;
    const oce_weights_file* weights;
    size_t weights_count;
} oce_engine_request;

/* A sentence that a module writes: at most `size` bytes with the zero at the end. */
typedef struct oce_message {
    char* text;
    size_t size;
} oce_message;

typedef struct oce_engine oce_engine; /* an opened tower, the module's own type */

typedef struct oce_module {
    uint32_t magic;             /* OCE_MODULE_MAGIC */
    uint32_t interface_version; /* OCE_MODULE_INTERFACE */
    size_t size;                /* sizeof(oce_module) */
    const char* kind;           /* kind of engine */
    const char* built_for;      /* library and versions that the module runs with, such as "ONNX Runtime 1.21 or newer" */

    /* OCE_OK if the engine can run here; otherwise OCE_ENGINE_UNAVAILABLE and the reason. Of the request only device, precision,
     * target_device, library, device_id and weights are set. */
    oce_status (*why_not)(const oce_engine_request* request, oce_message reason);
    /* Open a tower. */
    oce_status (*open)(const oce_engine_request* request, oce_engine** engine, oce_message error);
    /* Embed `rows` rows; the free size of a row, if there is one, is `length`. Many threads may call it at once.
     * embeds: receives (rows, embed_dim) float32. */
    oce_status (*run)(oce_engine* engine, const void* input, int64_t rows, int64_t length, float* embeds, oce_message error);
    /* Library, version and processor; lives as long as the engine. */
    const char* (*description)(const oce_engine* engine);
    void (*close)(oce_engine* engine);
} oce_module;

#ifdef __cplusplus
}
#endif
#endif
