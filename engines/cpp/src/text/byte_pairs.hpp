// Byte-pair encoding of single words.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace oce::core {

/// Two pieces' ids next to each other, and the id of both joined. Merges of low rank come first.
struct Merge {
    std::int32_t first, second, joined;
};

/// The merges of a vocabulary. Threads may share one.
class BytePairs {
public:
    static constexpr std::int32_t kNone = -1;
    using ByteIds = std::array<std::int32_t, 256>;

    /// merges: in the order of their rank; where a pair is there twice, the last one counts, as in `tokenizers`.
    /// bytes, last_bytes: ids of the single bytes, and of those that end a word; kNone where a byte is left out.
    BytePairs(const std::vector<Merge>& merges, const ByteIds& bytes, const ByteIds& last_bytes);

    /// Append the ids of a word.
    void encode(std::string_view word, std::vector<std::int32_t>& ids) const;

private:
    struct Slot {
        std::int32_t first = kNone, second = kNone, rank = 0, joined = kNone;
    };
    struct Symbol;
    struct Candidate;

    [[nodiscard]] std::size_t slot_of(std::int32_t first, std::int32_t second) const;
    [[nodiscard]] const Slot* find(std::int32_t first, std::int32_t second) const;
    void merge(std::vector<Symbol>& symbols) const;

    std::vector<Slot> slots_;  // open addressing; the size is a power of two
    ByteIds bytes_, last_bytes_;
};

}  // namespace oce::core
