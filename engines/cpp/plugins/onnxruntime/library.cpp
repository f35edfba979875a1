// The search for ONNX Runtime's library.
#include "library.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <vector>

#include "message.hpp"

namespace oce::plugin {
namespace {

constexpr const char* kVariable = "OCE_ONNXRUNTIME";
constexpr const char* kInstall = "set OCE_ONNXRUNTIME to the path of libonnxruntime.so.1 (version 1.21 or newer)";

std::vector<std::string> candidates(const char* named) {
    if (named != nullptr) return {named};
    if (const char* variable = std::getenv(kVariable); variable != nullptr && *variable != '\0') return {variable};
    std::vector<std::string> found;
#ifdef OCE_ONNXRUNTIME_DEFAULT
    found.emplace_back(OCE_ONNXRUNTIME_DEFAULT);
#endif
    found.emplace_back("libonnxruntime.so.1");
    return found;
}

/// The library, or the reason why a candidate is none.
OnnxRuntime opened(const std::string& path, std::string& reason) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        const char* problem = dlerror();
        reason = problem != nullptr ? problem : "cannot be opened";
        return {};
    }
    auto base_of = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
    if (base_of == nullptr) {
        reason = path + ": is not ONNX Runtime";
        return {};
    }
    const OrtApiBase* base = base_of();
    OnnxRuntime library{base->GetApi(ORT_API_VERSION), base->GetVersionString()};
    if (library.api == nullptr) {
        reason = path + ": is ONNX Runtime " + library.version + ", and this module needs 1." + std::to_string(ORT_API_VERSION) +
                 " or newer";
    }
    return library;
}

/// The process's one ONNX Runtime: the C++ headers keep the functions of one library, which sessions go on using.
OnnxRuntime used(const OnnxRuntime& library, const std::string& path) {
    static std::mutex mutex;
    static OnnxRuntime first;
    const std::lock_guard lock(mutex);
    if (first.api == nullptr) {
        Ort::InitApi(library.api);
        first = library;
    }
    if (first.api != library.api) {
        throw Unavailable("this process already uses another ONNX Runtime, " + first.version + ", and cannot use " + path +
                          " as well");
    }
    return first;
}

}  // namespace

OnnxRuntime open_onnxruntime(const char* named) {
    std::string reasons;
    for (const std::string& path : candidates(named)) {
        std::string reason;
        OnnxRuntime library = opened(path, reason);
        if (library.api != nullptr) return used(library, path);
        reasons += (reasons.empty() ? "" : "; ") + reason;
    }
    throw Unavailable("ONNX Runtime was not found (" + reasons + "): " + kInstall);
}

}  // namespace oce::plugin
