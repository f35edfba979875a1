// The log of the pretended device, and its kernels, which are only noted there.

#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>

#include "device.h"

namespace pretended {
namespace {


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

}  // namespace

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

}  // namespace pretended

// What the tests ask (device.py).
extern "C" {

void pretended_note(const char* text) { pretended::note("%s", text); }

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

}  // extern "C"
