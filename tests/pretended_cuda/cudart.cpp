// libcudart.so of the pretended device: the runtime's calls that ONNX Runtime's CUDA provider makes and that have to do something.
//
// `libraries.py` adds all others that the provider needs; those are noted and succeed. NVIDIA's own header is included, so that the
// compiler compares every call below with it.

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

#include "device.h"

using pretended::kDevice;
using pretended::kHost;
using pretended::kInOrder;

namespace {

cudaError_t result(int code) { return static_cast<cudaError_t>(code); }

template <typename Handle>
cudaError_t create(const char* call, const char* kind, Handle* handle) {
    *handle = reinterpret_cast<Handle>(pretended::create(call, kind));
    return cudaSuccess;
}

// What a kernel's launch with <<<>>> leaves for the call that follows it.
struct Configuration {
    dim3 grid;
    dim3 block;
    size_t shared;
    cudaStream_t stream;
};
thread_local Configuration pushed;

}  // namespace

extern "C" {

// The device

cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaDriverGetVersion(int* version) {
    *version = pretended::kVersion;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = pretended::kVersion;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* card, int device) {
    *card = {};
    snprintf(card->name, sizeof card->name, "%s", pretended::kName);
    card->major = pretended::kMajor;
    card->minor = pretended::kMinor;
    card->totalGlobalMem = pretended::kMemory;
    card->multiProcessorCount = pretended::kMultiprocessors;
    card->warpSize = pretended::kWarp;
    card->regsPerBlock = pretended::kRegisters;
    card->regsPerMultiprocessor = pretended::kRegisters;
    card->maxThreadsPerMultiProcessor = pretended::kThreadsOfMultiprocessor;
    card->maxThreadsPerBlock = pretended::kThreadsOfBlock;
    card->sharedMemPerBlock = 48 << 10;
    card->sharedMemPerBlockOptin = pretended::kSharedOfBlock;
    card->sharedMemPerMultiprocessor = pretended::kShared;
    card->l2CacheSize = 50 << 20;
    card->maxGridSize[0] = 0x7fffffff;
    card->maxGridSize[1] = card->maxGridSize[2] = 65535;
    card->maxThreadsDim[0] = card->maxThreadsDim[1] = pretended::kThreadsOfBlock;
    card->maxThreadsDim[2] = 64;
    card->concurrentKernels = 1;
    card->unifiedAddressing = 1;
    card->memoryPoolsSupported = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = pretended::kMajor; break;
        case cudaDevAttrComputeCapabilityMinor: *value = pretended::kMinor; break;
        case cudaDevAttrMultiProcessorCount: *value = pretended::kMultiprocessors; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = pretended::kSharedOfBlock; break;
        case cudaDevAttrWarpSize: *value = pretended::kWarp; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = pretended::kThreadsOfBlock; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = pretended::kThreadsOfMultiprocessor; break;
        default: *value = 1;
    }
    return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t error) { return error == cudaErrorMemoryAllocation ? "out of memory" : "error"; }
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

// Memory

cudaError_t cudaMalloc(void** address, size_t size) {
    return result(pretended::allocate("cudaMalloc", kDevice, address, size));
}

cudaError_t cudaFree(void* address) { return result(pretended::release("cudaFree", kDevice, address)); }

cudaError_t cudaMallocHost(void** address, size_t size) {
    return result(pretended::allocate("cudaMallocHost", kHost, address, size));
}

cudaError_t cudaHostAlloc(void** address, size_t size, unsigned flags) {
    return result(pretended::allocate("cudaHostAlloc", kHost, address, size));
}

cudaError_t cudaFreeHost(void* address) { return result(pretended::release("cudaFreeHost", kHost, address)); }

cudaError_t cudaMallocFromPoolAsync(void** address, size_t size, cudaMemPool_t pool, cudaStream_t stream) {
    if (!pretended::exists("stream", stream)) return cudaErrorInvalidResourceHandle;
    return result(pretended::allocate("cudaMallocFromPoolAsync", kInOrder, address, size));
}

cudaError_t cudaFreeAsync(void* address, cudaStream_t stream) {
    if (!pretended::exists("stream", stream)) return cudaErrorInvalidResourceHandle;
    return result(pretended::release("cudaFreeAsync", kInOrder, address));
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    *free = pretended::free_memory();
    *total = pretended::kMemory;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* address) {
    *found = {};
    found->type = cudaMemoryTypeDevice;
    found->devicePointer = const_cast<void*>(address);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* target, const void* source, size_t size, cudaMemcpyKind kind) {
    if (pretended::forbidden()) return cudaErrorStreamCaptureUnsupported;
    return result(pretended::copy("cudaMemcpy", target, source, size, nullptr));
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
    return result(pretended::copy("cudaMemcpyAsync", target, source, size, stream));
}

cudaError_t cudaMemset(void* target, int value, size_t size) {
    if (pretended::forbidden()) return cudaErrorStreamCaptureUnsupported;
    return result(pretended::set("cudaMemset", target, value, size, nullptr));
}

cudaError_t cudaMemsetAsync(void* target, int value, size_t size, cudaStream_t stream) {
    return result(pretended::set("cudaMemsetAsync", target, value, size, stream));
}

// Streams and events

cudaError_t cudaDeviceSynchronize() { return result(pretended::synchronize_device("cudaDeviceSynchronize")); }

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return create("cudaStreamCreate", "stream", stream); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return create("cudaStreamCreateWithFlags", "stream", stream);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    return result(pretended::destroy("cudaStreamDestroy", "stream", stream));
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return result(pretended::synchronize("cudaStreamSynchronize", stream));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    return result(pretended::wait_for_event("cudaStreamWaitEvent", stream, event));
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return create("cudaEventCreate", "event", event); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    return create("cudaEventCreateWithFlags", "event", event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return result(pretended::destroy("cudaEventDestroy", "event", event));
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return result(pretended::record("cudaEventRecord", event, stream));
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    return result(pretended::record("cudaEventRecordWithFlags", event, stream));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return result(pretended::synchronize_event("cudaEventSynchronize", event));
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
    *milliseconds = 1;
    return cudaSuccess;
}

// Graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    return result(pretended::begin_capture(stream, mode));
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    return result(pretended::end_capture(stream, reinterpret_cast<void**>(graph)));
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = pretended::is_capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags) {
    if (!pretended::exists("graph", graph)) return cudaErrorInvalidResourceHandle;
    return create("cudaGraphInstantiate", "executable", executable);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return result(pretended::destroy("cudaGraphDestroy", "graph", graph));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    return result(pretended::destroy("cudaGraphExecDestroy", "executable", executable));
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    if (!pretended::exists("executable", executable) || !pretended::exists("stream", stream)) {
        return cudaErrorInvalidResourceHandle;
    }
    pretended::note("cudaGraphLaunch executable=%p stream=%p", static_cast<void*>(executable), static_cast<void*>(stream));
    return cudaSuccess;
}

// Kernels

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream) {
    return result(pretended::launch("launch", stream));
}

cudaError_t cudaLaunchCooperativeKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                                        cudaStream_t stream) {
    return result(pretended::launch("launch", stream));
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* configuration, const void* kernel, void** arguments) {
    return result(pretended::launch("launch", configuration->stream));
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
    if (!pretended::exists("stream", stream)) return cudaErrorInvalidResourceHandle;
    pretended::note("cudaLaunchHostFunc stream=%p", static_cast<void*>(stream));
    if (!pretended::is_capturing(stream)) function(argument);
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void* kernel) {
    *found = {};
    found->maxThreadsPerBlock = pretended::kThreadsOfBlock;
    found->binaryVersion = found->ptxVersion = 10 * pretended::kMajor + pretended::kMinor;
    found->maxDynamicSharedSizeBytes = pretended::kSharedOfBlock;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* kernel, int threads,
                                                                   size_t shared, unsigned flags) {
    *blocks = 2;
    return cudaSuccess;
}

cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void* code, cudaJitOption* options, void** values,
                                unsigned count, cudaLibraryOption* more, void** more_values, unsigned more_count) {
    return create("cudaLibraryLoadData", "library", library);
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t library, const char* name) {
    return create("cudaLibraryGetKernel", "kernel", kernel);
}

// The driver's newer calls: none of them is there.
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult* found) {
    *function = nullptr;
    if (found != nullptr) *found = cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
    return create("cudaMemPoolCreate", "pool", pool);
}

// What NVIDIA's compiler writes calls to, and no header declares.

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    pushed = {grid, block, shared, stream};
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    *grid = pushed.grid;
    *block = pushed.block;
    *shared = pushed.shared;
    *static_cast<cudaStream_t*>(stream) = pushed.stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function));
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
    return result(pretended::launch("launch", stream));
}

void** __cudaRegisterFatBinary(void* code) {
    static void* handle;
    return &handle;
}

void __cudaRegisterFatBinaryEnd(void** handle) {}
void __cudaUnregisterFatBinary(void** handle) {}
void __cudaRegisterFunction(void** handle, const char* function, char* device_function, const char* name, int limit,
                            void* thread, void* block, void* block_size, void* grid_size, int* warp) {}
void __cudaRegisterVar(void** handle, char* variable, char* address, const char* name, int external, size_t size,
                       int constant, int global) {}

}  // extern "C"
