// libcuda.so.1 of the pretended device: the driver's calls that engines/device/cuda.py and cuda.core make, over memory.cpp, streams.cpp and
// log.cpp, which are part of the library.

#include <cuda.h>
#include <dlfcn.h>

#include <cstdio>
#include <string>

#include "device.h"

using pretended::kDevice;
using pretended::kHost;
using pretended::kInOrder;

namespace {

CUresult result(int code) { return static_cast<CUresult>(code); }
void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }
CUcontext context() { return reinterpret_cast<CUcontext>(0x10); }  // the only one there is

}  // namespace

// cuda.h gives some of these names the version that the library exports, such as cuMemAlloc_v2.
extern "C" {

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
