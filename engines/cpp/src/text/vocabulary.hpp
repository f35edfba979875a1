// Ids by name, needed only while a tokenizer's merges are read.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "text/tokenizer_json.hpp"

namespace oce::core {

/// A hash table of the file's vocabulary; of names that are there twice, the last one counts.
class Vocabulary {
public:
    explicit Vocabulary(const TokenizerJson& file)
        : file_(file), slots_(std::bit_ceil(file.vocabulary.size() * 3 / 2 + 2), kEmpty) {
        for (std::uint32_t number = 0; number < file.vocabulary.size(); ++number) {
            slots_[slot_of(file.text(file.vocabulary[number]))] = number;
        }
    }

    /// The id, or -1.
    [[nodiscard]] std::int32_t find(std::string_view name) const {
        const std::uint32_t number = slots_[slot_of(name)];
        return number == kEmpty ? -1 : file_.vocabulary[number].id;
    }

private:
    static constexpr std::uint32_t kEmpty = 0xFFFFFFFF;

    [[nodiscard]] std::size_t slot_of(std::string_view name) const {
        const std::size_t mask = slots_.size() - 1;
        std::size_t at = std::hash<std::string_view>{}(name)&mask;
        while (slots_[at] != kEmpty && file_.text(file_.vocabulary[slots_[at]]) != name) at = (at + 1) & mask;
        return at;
    }

    const TokenizerJson& file_;
    std::vector<std::uint32_t> slots_;
};

}  // namespace oce::core
