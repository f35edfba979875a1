// The regular expression that cuts a text into words: alternatives of explicit character classes.
#include "text/split_pattern.hpp"

#include <algorithm>
#include <stdexcept>

namespace oce::core {

/// Reads a pattern from left to right.
class SplitPattern::Reader {
public:
    explicit Reader(std::string_view pattern) : rest_(pattern) {}

    std::vector<Alternative> read() {
        std::vector<Alternative> alternatives;
        do {
            alternatives.push_back(read_alternative());
        } while (take("|"));
        if (!rest_.empty()) refuse();
        return alternatives;
    }

private:
    [[noreturn]] static void refuse() { throw std::invalid_argument("not alternatives of character classes"); }

    bool take(std::string_view start) {
        if (!rest_.starts_with(start)) return false;
        rest_.remove_prefix(start.size());
        return true;
    }

    char32_t read_character() {
        if (!take("\\x{")) refuse();
        char32_t number = 0;
        std::size_t digits = 0;
        while (!take("}")) {
            const std::size_t digit = rest_.empty() ? 16 : std::string_view("0123456789ABCDEF").find(rest_[0]);
            if (digit >= 16 || ++digits > 6) refuse();
            number = number * 16 + static_cast<char32_t>(digit);
            rest_.remove_prefix(1);
        }
        if (digits == 0 || number > 0x10FFFF) refuse();
        return number;
    }

    Class read_class() {
        Class result;
        if (!take("[")) refuse();
        do {
            const char32_t first = read_character(), last = take("-") ? read_character() : first;
            if (first > last) refuse();
            for (char32_t c = first; c <= last && c < 0x80; ++c) result.ascii[c / 64] |= std::uint64_t{1} << (c % 64);
            if (last >= 0x80) result.others.push_back({std::max<char32_t>(first, 0x80), last});
        } while (!take("]"));
        std::ranges::sort(result.others, {}, &Range::first);
        for (std::size_t k = 1; k < result.others.size(); ++k) {
            if (result.others[k].first <= result.others[k - 1].last) refuse();  // they overlap
        }
        result.others.shrink_to_fit();
        return result;
    }

    Alternative read_alternative() {
        Alternative result;
        do {
            result.classes.push_back(read_class());
            result.repeats = take("+");
        } while (!result.repeats && rest_.starts_with("["));
        return result;
    }

    std::string_view rest_;
};

SplitPattern::SplitPattern(std::string_view pattern) : alternatives_(Reader(pattern).read()) {}

bool SplitPattern::Class::has(char32_t character) const {
    if (character < 0x80) return (ascii[character / 64] >> (character % 64) & 1) != 0;
    const auto behind = std::ranges::upper_bound(others, character, {}, &Range::first);
    return behind != others.begin() && character <= std::prev(behind)->last;
}

std::size_t SplitPattern::match(std::u32string_view text, std::size_t at) const {
    for (const Alternative& alternative : alternatives_) {
        std::size_t end = at;
        for (const Class& each : alternative.classes) {
            if (end == text.size() || !each.has(text[end])) {
                end = at;
                break;
            }
            ++end;
        }
        if (end == at) continue;
        if (alternative.repeats) {
            while (end < text.size() && alternative.classes.back().has(text[end])) ++end;
        }
        return end - at;
    }
    return 0;
}

}  // namespace oce::core
