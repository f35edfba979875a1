// libcuda.so.1 of the pretended device: the device itself, and the driver's calls that engines/device/cuda.py and cuda.core make.

#include "device.h"

#include <cuda.h>
#include <dlfcn.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <string>

namespace pretended {
namespace {

constexpr size_t kAlignment = 256;  // of device memory, as CUDA aligns
constexpr int kGlobalMode = 0;      // of a capture: cudaStreamCaptureModeGlobal

struct Block {
    Place place;
    size_t size;
};

std::mutex mutex;  // over all that follows
std::map<void*, Block> blocks;
std::map<const void*, std::string> handles;  // handle -> "stream", "event", "graph"
size_t used = 0;                             // bytes of device memory
size_t most_used = 0;
size_t next_handle = 0x1000;
bool capturing = false;
bool capture_is_global = false;
bool capture_is_broken = false;
const void* captured_stream = nullptr;

constexpr auto kLongestWait = std::chrono::seconds(20);  // for threads that have to meet, and do not

std::mutex meeting;  // over all that follows
std::condition_variable all_there;
size_t expected = 0;  // threads that have to meet; 0: none, or they did
bool is_missed = false;  // one waited in vain
std::set<long> arrived;

// The first time that a thread comes here, it waits for the others.
void meet() {
    std::unique_lock<std::mutex> lock(meeting);
    if (expected == 0 || is_missed || !arrived.insert(syscall(SYS_gettid)).second) return;
    if (arrived.size() == expected) {
        expected = 0;
        all_there.notify_all();
    } else {
        is_missed = !all_there.wait_for(lock, kLongestWait, [] { return expected == 0; });
    }
}

FILE* log_file() {
    static const char* path = getenv("PRETENDED_CUDA_LOG");
    static FILE* file = path == nullptr ? nullptr : fopen(path, "a");
    return file;
}

// Where memory lies: in a block of the device's or of pinned memory, or elsewhere, which is the host's pageable memory.
const char* place_of(const void* address) {
    std::lock_guard<std::mutex> guard(mutex);
    auto after = blocks.upper_bound(const_cast<void*>(address));
    if (after == blocks.begin()) return "pageable";
    auto [start, block] = *std::prev(after);
    if (address >= static_cast<char*>(start) + std::max(block.size, size_t{1})) return "pageable";
    return block.place == kHost ? "pinned" : "device";
}

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

void note(const char* format, ...) {
    FILE* file = log_file();
    if (file == nullptr) return;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(file, "%ld %s\n", syscall(SYS_gettid), text);
    fflush(file);
}

int launch(const char* call, const void* stream) {
    static const char* pause = getenv("PRETENDED_CUDA_LAUNCH_MICROSECONDS");
    if (!exists("stream", stream)) return kInvalidHandle;
    note("%s stream=%p", call, stream);
    meet();
    if (pause != nullptr) usleep(atoi(pause));
    return kSuccess;
}

int allocate(const char* call, Place place, void** address, size_t size) {
    if (place != kInOrder && forbidden()) return kNotWhileCapturing;
    {
        std::lock_guard<std::mutex> guard(mutex);
        if (place != kHost && used + size > kMemory) return kOutOfMemory;
        *address = aligned_alloc(kAlignment, (size + 2 * kAlignment - 1) / kAlignment * kAlignment);
        if (*address == nullptr) return kOutOfMemory;
        blocks[*address] = {place, size};
        if (place != kHost) used += size;
        if (used > most_used) most_used = used;
    }
    note("%s size=%zu address=%p", call, size, *address);
    return kSuccess;
}

int release(const char* call, Place place, void* address) {
    if (address == nullptr) return kSuccess;
    if (place == kDevice && forbidden()) return kNotWhileCapturing;
    {
        std::lock_guard<std::mutex> guard(mutex);
        auto block = blocks.find(address);
        if (block == blocks.end() || block->second.place != place) return kInvalidValue;
        if (place != kHost) used -= block->second.size;
        blocks.erase(block);
    }
    note("%s address=%p", call, address);
    free(address);
    return kSuccess;
}

size_t free_memory() {
    std::lock_guard<std::mutex> guard(mutex);
    return kMemory - used;
}

int copy(const char* call, void* target, const void* source, size_t size, const void* stream) {
    if (!exists("stream", stream)) return kInvalidHandle;
    note("%s target=%p to=%s source=%p from=%s size=%zu stream=%p", call, target, place_of(target), source,
         place_of(source), size, stream);
    if (!is_capturing(stream)) memmove(target, source, size);
    return kSuccess;
}

int set(const char* call, void* target, int value, size_t size, const void* stream) {
    if (!exists("stream", stream)) return kInvalidHandle;
    note("%s target=%p size=%zu stream=%p", call, target, size, stream);
    if (!is_capturing(stream)) memset(target, value, size);
    return kSuccess;
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

using pretended::kDevice;
using pretended::kHost;
using pretended::kInOrder;

namespace {

CUresult result(int code) { return static_cast<CUresult>(code); }
void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }
CUcontext context() { return reinterpret_cast<CUcontext>(0x10); }  // the only one there is

}  // namespace

// What the tests ask (device.py).
extern "C" {

void pretended_note(const char* text) { pretended::note("%s", text); }

// Bytes of device memory in use, and the most that ever were.
size_t pretended_used() {
    std::lock_guard<std::mutex> guard(pretended::mutex);
    return pretended::used;
}

size_t pretended_most_used() {
    std::lock_guard<std::mutex> guard(pretended::mutex);
    return pretended::most_used;
}

// Blocks of pinned host memory.
size_t pretended_pinned() {
    std::lock_guard<std::mutex> guard(pretended::mutex);
    size_t count = 0;
    for (const auto& [address, block] : pretended::blocks) count += block.place == kHost;
    return count;
}

// Handles of a kind.
size_t pretended_handles(const char* kind) {
    std::lock_guard<std::mutex> guard(pretended::mutex);
    size_t count = 0;
    for (const auto& [handle, name] : pretended::handles) count += name == kind;
    return count;
}

// From now on, each of so many threads waits at its next launch until all of them are there.
void pretended_meet(size_t threads) {
    std::lock_guard<std::mutex> guard(pretended::meeting);
    pretended::expected = threads;
    pretended::is_missed = false;
    pretended::arrived.clear();
}

// Whether they all came.
bool pretended_met() {
    std::lock_guard<std::mutex> guard(pretended::meeting);
    return pretended::expected == 0;
}

// The driver. cuda.h gives some of these names the version that the library exports, such as cuMemAlloc_v2.

CUresult CUDAAPI cuInit(unsigned flags) { return CUDA_SUCCESS; }

CUresult CUDAAPI cuDriverGetVersion(int* version) {
    *version = pretended::kVersion;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int* count) {
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGet(CUdevice* device, int number) {
    *device = number;
    return number == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult CUDAAPI cuDeviceGetName(char* name, int size, CUdevice device) {
    snprintf(name, size, "%s", pretended::kName);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = pretended::kMajor; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = pretended::kMinor; break;
        default: *value = 1;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext* found, CUdevice device) {
    *found = context();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice device) { return CUDA_SUCCESS; }
CUresult CUDAAPI cuCtxPushCurrent(CUcontext pushed) { return CUDA_SUCCESS; }
CUresult CUDAAPI cuCtxSetCurrent(CUcontext set) { return CUDA_SUCCESS; }

CUresult CUDAAPI cuCtxPopCurrent(CUcontext* popped) {
    *popped = context();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext* current) {
    *current = context();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice* device) {
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGetErrorString(CUresult error, const char** text) {
    *text = "an error of the pretended device";
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGetErrorName(CUresult error, const char** text) { return cuGetErrorString(error, text); }

// Memory

CUresult CUDAAPI cuMemAlloc(CUdeviceptr* address, size_t size) {
    void* block = nullptr;
    int code = pretended::allocate("cuMemAlloc", kDevice, &block, size);
    *address = reinterpret_cast<CUdeviceptr>(block);
    return result(code);
}

CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr* address, size_t size, CUstream stream) {
    void* block = nullptr;
    if (!pretended::exists("stream", stream)) return CUDA_ERROR_INVALID_HANDLE;
    int code = pretended::allocate("cuMemAllocAsync", kInOrder, &block, size);
    *address = reinterpret_cast<CUdeviceptr>(block);
    return result(code);
}

CUresult CUDAAPI cuMemFree(CUdeviceptr address) {
    return result(pretended::release("cuMemFree", kDevice, pointer(address)));
}

CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
    if (!pretended::exists("stream", stream)) return CUDA_ERROR_INVALID_HANDLE;
    return result(pretended::release("cuMemFreeAsync", kInOrder, pointer(address)));
}

CUresult CUDAAPI cuMemHostAlloc(void** address, size_t size, unsigned flags) {
    return result(pretended::allocate("cuMemHostAlloc", kHost, address, size));
}

CUresult CUDAAPI cuMemFreeHost(void* address) {
    return result(pretended::release("cuMemFreeHost", kHost, address));
}

CUresult CUDAAPI cuMemGetInfo(size_t* free, size_t* total) {
    *free = pretended::free_memory();
    *total = pretended::kMemory;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream) {
    return result(pretended::copy("cuMemcpyAsync", pointer(target), pointer(source), size, stream));
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t size, CUstream stream) {
    return result(pretended::set("cuMemsetD8Async", pointer(target), value, size, stream));
}

CUresult CUDAAPI cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr address) {
    if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) {
        *static_cast<int*>(value) = 0;
    } else if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) {
        *static_cast<unsigned*>(value) = CU_MEMORYTYPE_DEVICE;
    } else {
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

// Streams and events

CUresult CUDAAPI cuStreamCreate(CUstream* stream, unsigned flags) {
    *stream = static_cast<CUstream>(pretended::create("cuStreamCreate", "stream"));
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamDestroy(CUstream stream) {
    return result(pretended::destroy("cuStreamDestroy", "stream", stream));
}

CUresult CUDAAPI cuStreamSynchronize(CUstream stream) {
    return result(pretended::synchronize("cuStreamSynchronize", stream));
}

CUresult CUDAAPI cuEventCreate(CUevent* event, unsigned flags) {
    *event = static_cast<CUevent>(pretended::create("cuEventCreate", "event"));
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventDestroy(CUevent event) {
    return result(pretended::destroy("cuEventDestroy", "event", event));
}

CUresult CUDAAPI cuEventRecord(CUevent event, CUstream stream) {
    return result(pretended::record("cuEventRecord", event, stream));
}

CUresult CUDAAPI cuEventSynchronize(CUevent event) {
    return result(pretended::synchronize_event("cuEventSynchronize", event));
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
    return result(pretended::wait_for_event("cuStreamWaitEvent", stream, event));
}

// Where NVIDIA's bindings for Python ask for every call. What is not above is not there.
CUresult CUDAAPI cuGetProcAddress(const char* name, void** function, int version, cuuint64_t flags,
                                  CUdriverProcAddressQueryResult* found) {
    static void* self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    *function = nullptr;
    for (const char* suffix : {"_v2", ""}) {
        if (*function == nullptr) *function = dlsym(self, (std::string(name) + suffix).c_str());
    }
    bool there = *function != nullptr;
    if (found != nullptr) *found = there ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return there ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

}  // extern "C"
