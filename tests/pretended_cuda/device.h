// The pretended device: what the pretended driver (driver.cpp and the files beside it that it is made of) has, and the pretended
// runtime (cudart.cpp) uses, as NVIDIA's does.
//
// Device memory is host memory. Copies are made at once, kernels are only noted, and what is captured into a graph is not done.
// Rules of CUDA whose breach a test should see are kept in the calls that driver.cpp and cudart.cpp have. Errors are: a stream, an
// event, a graph or an executable that does not exist, a block that was not allocated, and memory that is short; while a stream is
// captured, a wait for it or for the device; and in the global mode of a capture, in any thread, an allocation, a release of device
// memory outside the order of a stream, and a synchronous copy. What the capture forbids also breaks it. Calls that libraries.py
// adds check nothing.

#pragma once

#include <cstddef>

namespace pretended {

// Results, with CUDA's numbers, which are the same in the driver's API and in the runtime's.
enum Result {
    kSuccess = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kInvalidHandle = 400,
    kNotWhileCapturing = 900,
    kCaptureBroken = 901,
};

// The card.
constexpr char kName[] = "NVIDIA H100 80GB HBM3";
constexpr int kMajor = 9;
constexpr int kMinor = 0;
constexpr int kVersion = 13000;  // of CUDA
constexpr int kMultiprocessors = 132;
constexpr int kWarp = 32;
constexpr int kThreadsOfBlock = 1024;
constexpr int kThreadsOfMultiprocessor = 2048;
constexpr int kRegisters = 65536;
constexpr int kShared = 233472;  // bytes of a multiprocessor's shared memory
constexpr int kSharedOfBlock = 232448;
constexpr size_t kMemory = size_t{4} << 30;

// Where a block lies. `kInOrder` is device memory that belongs to the order of a stream.
enum Place { kDevice, kHost, kInOrder };

// Appends a line to the log: the thread's number, then the text as printf makes it. The first word is the call.
void note(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Whether there is a handle of a kind: "stream", "event", "graph" or another one of `create`.
bool exists(const char* kind, const void* handle);

// A kernel, noted. Where PRETENDED_CUDA_LAUNCH_MICROSECONDS is set, it takes the host so long to launch, so that threads can meet.
// Where threads have to meet (`pretended_meet`), they wait here for each other.
int launch(const char* call, const void* stream);

// Memory. `call` is the name for the log.
int allocate(const char* call, Place place, void** address, size_t size);
int release(const char* call, Place place, void* address);
size_t free_memory();

// Work of a stream: memory that is copied or set, and a wait for the stream.
int copy(const char* call, void* target, const void* source, size_t size, const void* stream);
int set(const char* call, void* target, int value, size_t size, const void* stream);
int synchronize(const char* call, const void* stream);

// A wait for all streams, and one for an event.
int synchronize_device(const char* call);
int synchronize_event(const char* call, const void* event);

// Streams and events.
void* create(const char* call, const char* kind);
int destroy(const char* call, const char* kind, const void* handle);
int record(const char* call, const void* event, const void* stream);
int wait_for_event(const char* call, const void* stream, const void* event);

// Graphs. One capture is under way at a time.
int begin_capture(const void* stream, int mode);
int end_capture(const void* stream, void** graph);
bool is_capturing(const void* stream);

// Whether a capture in the global mode forbids what a thread wants to do; the attempt breaks the capture.
bool forbidden();

}  // namespace pretended
