// ONNX Runtime's shared library, opened at run time: one binary of the module serves every release from 1.21 on.
#pragma once

#include <string>

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

namespace oce::plugin {

/// An opened ONNX Runtime.
struct OnnxRuntime {
    const OrtApi* api = nullptr;
    std::string version;
};

/// Open ONNX Runtime: the named file, or else OCE_ONNXRUNTIME, the file that the build named, or libonnxruntime.so.1 by the dynamic
/// linker's search. It stays open for the life of the process. Throws Unavailable with the reason of every candidate.
OnnxRuntime open_onnxruntime(const char* named);

}  // namespace oce::plugin
