// Unicode's normalization form C.
#include <algorithm>
#include <optional>
#include <tuple>

#include "text/unicode.hpp"

namespace oce::core {

namespace {

// Hangul syllables are computed (The Unicode Standard, 3.12): 19 leading consonants, 21 vowels, 27 trailing consonants or none.
constexpr char32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTrails = 0x11A7;
constexpr char32_t kLeadCount = 19, kVowelCount = 21, kTrailCount = 28;
constexpr char32_t kSyllableCount = kLeadCount * kVowelCount * kTrailCount;

bool within(char32_t character, char32_t first, char32_t count) {
    return character >= first && character < first + count;
}

std::u32string decomposed(std::u32string_view text) {
    std::u32string result;
    result.reserve(text.size() + text.size() / 4);
    for (const char32_t character : text) {
        if (within(character, kSyllables, kSyllableCount)) {
            const char32_t index = character - kSyllables, trail = index % kTrailCount;
            result += static_cast<char32_t>(kLeads + index / (kVowelCount * kTrailCount));
            result += kVowels + index / kTrailCount % kVowelCount;
            if (trail != 0) result += kTrails + trail;
        } else if (has(character, tables::kIsDecomposed)) {
            result += mapped(tables::kDecomposed, character);
        } else {
            result += character;
        }
    }
    return result;
}

/// Sort every run of combining characters by their class.
void reorder(std::u32string& text) {
    const auto combines = [](char32_t character) { return record_of(character).combining_class != 0; };
    for (auto at = text.begin(); at != text.end();) {
        const auto first = std::find_if(at, text.end(), combines);
        at = std::find_if_not(first, text.end(), combines);
        std::stable_sort(first, at,
                         [](char32_t a, char32_t b) { return record_of(a).combining_class < record_of(b).combining_class; });
    }
}

std::optional<char32_t> joined(char32_t first, char32_t second) {
    if (within(first, kLeads, kLeadCount) && within(second, kVowels, kVowelCount)) {
        return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTrailCount;
    }
    if (within(first, kSyllables, kSyllableCount) && (first - kSyllables) % kTrailCount == 0 &&
        within(second, kTrails + 1, kTrailCount - 1)) {
        return first + (second - kTrails);
    }
    if (!has(second, tables::kNeedsComposing)) return std::nullopt;
    const auto key = [](const tables::Composition& pair) { return std::tuple(pair.first, pair.second); };
    const auto found = std::ranges::lower_bound(tables::kCompositions, std::tuple(first, second), {}, key);
    if (found == tables::kCompositions.end() || key(*found) != std::tuple(first, second)) return std::nullopt;
    return found->joined;
}

/// Join characters with the last starter before them, unless one between them has the same class or a higher one.
void compose(std::u32string& text) {
    std::size_t end = 0, starter = 0;
    bool started = false;
    unsigned last_class = 0;  // of the character before, where it is not the starter
    for (const char32_t character : text) {
        const unsigned its_class = record_of(character).combining_class;
        const bool adjacent = started && end == starter + 1;
        if (adjacent || (started && last_class < its_class)) {
            if (const auto both = joined(text[starter], character)) {
                text[starter] = *both;
                continue;
            }
        }
        if (its_class == 0) {
            started = true;
            starter = end;
        }
        last_class = its_class;
        text[end++] = character;
    }
    text.resize(end);
}

}  // namespace

void normalize_nfc(std::u32string& text) {
    if (std::ranges::none_of(text, [](char32_t character) { return has(character, tables::kNeedsComposing); })) return;
    text = decomposed(text);
    reorder(text);
    compose(text);
}

}  // namespace oce::core
