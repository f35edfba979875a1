// Byte-pair encoding of single words: the pair of the lowest rank is joined first, the left one of equal pairs.
#include "text/byte_pairs.hpp"

#include <algorithm>
#include <bit>

namespace oce::core {

/// A piece of the word in a linked list; `id` is kNone once the piece before it has taken it in.
struct BytePairs::Symbol {
    std::int32_t id;
    std::uint32_t previous, next;  // kEnd at the ends
};

/// A pair that could be joined when it was noted. It may be out of date when its turn comes.
struct BytePairs::Candidate {
    std::int32_t rank, joined;
    std::uint32_t at;

    /// For std::*_heap, which have the greatest at the top
    bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
};

namespace {

constexpr std::uint32_t kEnd = 0xFFFFFFFF;

}  // namespace

BytePairs::BytePairs(const std::vector<Merge>& merges, const ByteIds& bytes, const ByteIds& last_bytes)
    : slots_(std::bit_ceil(merges.size() * 3 / 2 + 2)), bytes_(bytes), last_bytes_(last_bytes) {
    std::int32_t rank = 0;
    for (const Merge& merge : merges) {
        slots_[slot_of(merge.first, merge.second)] = {merge.first, merge.second, rank++, merge.joined};
    }
}

/// The pair's slot, or the empty one where it belongs; a third of all slots is empty, so the search ends.
std::size_t BytePairs::slot_of(std::int32_t first, std::int32_t second) const {
    const std::uint64_t key = std::uint64_t{static_cast<std::uint32_t>(first)} << 32 | static_cast<std::uint32_t>(second);
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = (key * 0x9E3779B97F4A7C15u >> 32) & mask;  // Fibonacci hashing
    while (slots_[at].first != kNone && (slots_[at].first != first || slots_[at].second != second)) at = (at + 1) & mask;
    return at;
}

const BytePairs::Slot* BytePairs::find(std::int32_t first, std::int32_t second) const {
    const Slot& slot = slots_[slot_of(first, second)];
    return slot.first == kNone ? nullptr : &slot;
}

void BytePairs::merge(std::vector<Symbol>& symbols) const {
    std::vector<Candidate> candidates;
    const auto note = [&](std::uint32_t at) {
        if (at == kEnd || symbols[at].next == kEnd) return false;
        const Slot* slot = find(symbols[at].id, symbols[symbols[at].next].id);
        if (slot != nullptr) candidates.push_back({slot->rank, slot->joined, at});
        return slot != nullptr;
    };
    for (std::uint32_t at = 0; at < symbols.size(); ++at) note(at);
    std::make_heap(candidates.begin(), candidates.end());
    while (!candidates.empty()) {
        std::pop_heap(candidates.begin(), candidates.end());
        const Candidate candidate = candidates.back();
        candidates.pop_back();
        Symbol& symbol = symbols[candidate.at];
        if (symbol.id == kNone || symbol.next == kEnd) continue;
        Symbol& taken = symbols[symbol.next];
        const Slot* slot = find(symbol.id, taken.id);
        if (slot == nullptr || slot->joined != candidate.joined) continue;
        symbol.id = candidate.joined;
        symbol.next = taken.next;
        taken.id = kNone;
        if (symbol.next != kEnd) symbols[symbol.next].previous = candidate.at;
        if (note(symbol.previous)) std::push_heap(candidates.begin(), candidates.end());
        if (note(candidate.at)) std::push_heap(candidates.begin(), candidates.end());
    }
}

void BytePairs::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
    std::vector<Symbol> symbols;
    symbols.reserve(word.size());
    for (std::size_t at = 0; at < word.size(); ++at) {
        const auto byte = static_cast<std::uint8_t>(word[at]);
        const std::int32_t id = at + 1 == word.size() ? last_bytes_[byte] : bytes_[byte];
        const auto place = static_cast<std::uint32_t>(symbols.size());
        if (id != kNone) symbols.push_back({id, place - 1, place + 1});  // the first one's `previous` is kEnd
    }
    if (symbols.empty()) return;
    symbols.back().next = kEnd;
    merge(symbols);
    for (std::uint32_t at = 0; at != kEnd; at = symbols[at].next) ids.push_back(symbols[at].id);
}

}  // namespace oce::core
