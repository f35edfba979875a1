// cuBLAS, cuBLASLt and cuDNN of the pretended device: the calls that have to do more than be noted and succeed.
//
// `libraries.py` compiles this once for each library, without the calls that the library does not have. Types are as wide as NVIDIA's.

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "device.h"

extern "C" {

#ifdef LIBRARY_cublas

int cublasGetMathMode(void* handle, int* mode) {
    *mode = 0;  // CUBLAS_DEFAULT_MATH
    return 0;
}

// A product has no stream among its arguments: the stream is the one that was set here before.
int cublasSetStream_v2(void* handle, void* stream) {
    pretended::note("cublasSetStream_v2 first=%p stream=%p", handle, stream);
    return 0;
}

#endif
#ifdef LIBRARY_cublasLt

int cublasLtMatmulAlgoGetHeuristic(void* handle, void* operation, void* a, void* b, void* c, void* d, void* preference,
                                   int wanted, void* found, int* count) {
    memset(found, 0, 96);  // one cublasLtMatmulHeuristicResult_t: success, no workspace
    *count = 1;
    return 0;
}

int cublasLtMatmul(void* handle, void* operation, const void* alpha, const void* a, void* a_layout, const void* b,
                   void* b_layout, const void* beta, const void* c, void* c_layout, void* d, void* d_layout,
                   const void* algorithm, void* workspace, size_t workspace_size, void* stream) {
    return pretended::launch("cublasLtMatmul", stream);
}

#endif
#ifdef LIBRARY_cudnn

size_t cudnnGetVersion() { return 91000; }

int cudnnSetStream(void* handle, void* stream) {
    pretended::note("cudnnSetStream first=%p stream=%p", handle, stream);
    return 0;
}

// Convolutions are planned with descriptors like this one. There is no plan here, so they can be loaded, but not run.
int cudnnBackendCreateDescriptor(int kind, void** descriptor) {
    *descriptor = nullptr;
    return 3000;  // CUDNN_STATUS_NOT_SUPPORTED
}

#endif

}  // extern "C"
