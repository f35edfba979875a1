// The regular expression that cuts a text into words: alternatives of explicit character classes.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace oce::core {

/// A pattern such as `[\x{41}\x{61}][\x{42}]|[\x{30}-\x{39}]+`; only an alternative's last class may repeat.
class SplitPattern {
public:
    /// Throws std::invalid_argument for any other pattern.
    explicit SplitPattern(std::string_view pattern);

    /// Length of what the first fitting alternative matches there, or 0.
    [[nodiscard]] std::size_t match(std::u32string_view text, std::size_t at) const;

private:
    struct Range {
        char32_t first, last;
    };
    struct Class {
        std::uint64_t ascii[2] = {0, 0};
        std::vector<Range> others;  // sorted, from U+0080
        [[nodiscard]] bool has(char32_t character) const;
    };
    struct Alternative {
        std::vector<Class> classes;
        bool repeats = false;
    };
    class Reader;

    std::vector<Alternative> alternatives_;
};

}  // namespace oce::core
