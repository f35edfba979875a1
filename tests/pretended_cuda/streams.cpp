// Streams, events and graphs of the pretended device, and the capture that is under way.

#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "device.h"

namespace pretended {
namespace {

constexpr int kGlobalMode = 0;  // of a capture: cudaStreamCaptureModeGlobal

std::mutex mutex;  // over all that follows
std::map<const void*, std::string> handles;  // handle -> "stream", "event", "graph"
size_t next_handle = 0x1000;
bool capturing = false;
bool capture_is_global = false;
bool capture_is_broken = false;
const void* captured_stream = nullptr;

}  // namespace

// The handles 0, 1 and 2 are CUDA's default streams, which nobody creates.
bool exists(const char* kind, const void* handle) {
    if (strcmp(kind, "stream") == 0 && reinterpret_cast<size_t>(handle) <= 2) return true;
    std::lock_guard<std::mutex> guard(mutex);
    auto found = handles.find(handle);
    return found != handles.end() && found->second == kind;
}

bool forbidden() {
    std::lock_guard<std::mutex> guard(mutex);
    if (!capturing || !capture_is_global) return false;
    capture_is_broken = true;
    return true;
}

int synchronize(const char* call, const void* stream) {
    if (!exists("stream", stream)) return kInvalidHandle;
    note("%s stream=%p", call, stream);
    if (!is_capturing(stream)) return kSuccess;
    std::lock_guard<std::mutex> guard(mutex);
    capture_is_broken = true;
    return kNotWhileCapturing;
}

int synchronize_device(const char* call) {
    note("%s", call);
    std::lock_guard<std::mutex> guard(mutex);
    if (!capturing) return kSuccess;
    capture_is_broken = true;
    return kNotWhileCapturing;
}

int synchronize_event(const char* call, const void* event) {
    if (!exists("event", event)) return kInvalidHandle;
    note("%s event=%p", call, event);
    return kSuccess;
}

void* create(const char* call, const char* kind) {
    void* handle;
    {
        std::lock_guard<std::mutex> guard(mutex);
        handle = reinterpret_cast<void*>(next_handle += 16);
        handles[handle] = kind;
    }
    note("%s %s=%p", call, kind, handle);
    return handle;
}

int destroy(const char* call, const char* kind, const void* handle) {
    if (!exists(kind, handle)) return kInvalidHandle;
    {
        std::lock_guard<std::mutex> guard(mutex);
        handles.erase(handle);
    }
    note("%s %s=%p", call, kind, handle);
    return kSuccess;
}

int record(const char* call, const void* event, const void* stream) {
    if (!exists("event", event) || !exists("stream", stream)) return kInvalidHandle;
    note("%s event=%p stream=%p", call, event, stream);
    return kSuccess;
}

int wait_for_event(const char* call, const void* stream, const void* event) {
    if (!exists("event", event) || !exists("stream", stream)) return kInvalidHandle;
    note("%s event=%p stream=%p", call, event, stream);
    return kSuccess;
}

int begin_capture(const void* stream, int mode) {
    if (!exists("stream", stream)) return kInvalidHandle;
    note("cudaStreamBeginCapture stream=%p mode=%d", stream, mode);
    std::lock_guard<std::mutex> guard(mutex);
    if (capturing) return kNotWhileCapturing;
    capturing = true;
    capture_is_global = mode == kGlobalMode;
    capture_is_broken = false;
    captured_stream = stream;
    return kSuccess;
}

int end_capture(const void* stream, void** graph) {
    *graph = nullptr;
    {
        std::lock_guard<std::mutex> guard(mutex);
        if (!capturing || stream != captured_stream) return kInvalidValue;
        capturing = false;
        captured_stream = nullptr;
        if (capture_is_broken) return kCaptureBroken;
    }
    *graph = create("cudaStreamEndCapture", "graph");
    return kSuccess;
}

bool is_capturing(const void* stream) {
    std::lock_guard<std::mutex> guard(mutex);
    return capturing && stream == captured_stream;
}

}  // namespace pretended

// What the tests ask (device.py): handles of a kind.
extern "C" size_t pretended_handles(const char* kind) {
    std::lock_guard<std::mutex> guard(pretended::mutex);
    size_t count = 0;
    for (const auto& [handle, name] : pretended::handles) count += name == kind;
    return count;
}
