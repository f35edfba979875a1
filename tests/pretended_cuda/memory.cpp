// Memory of the pretended device: its blocks, those of pinned host memory, and what is copied or set in them.

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>

#include "device.h"

namespace pretended {
namespace {

constexpr size_t kAlignment = 256;  // of device memory, as CUDA aligns

struct Block {
    Place place;
    size_t size;
};

std::mutex mutex;  // over all that follows
std::map<void*, Block> blocks;
size_t used = 0;  // bytes of device memory
size_t most_used = 0;

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

}  // namespace pretended

// What the tests ask (device.py).
extern "C" {

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
    for (const auto& [address, block] : pretended::blocks) count += block.place == pretended::kHost;
    return count;
}

}  // extern "C"
