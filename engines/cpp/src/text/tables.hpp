// Declarations of the data in tables.cpp, which tools/make_tables.py writes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace oce::core::tables {

/// Bits of Record::properties. The five names with "First" or "Continuation" are ftfy's clues of UTF-8 that was decoded wrongly.
enum Property : std::uint16_t {
    kSpace = 1 << 0,
    kCased = 1 << 1,
    kCaseIgnorable = 1 << 2,
    kDigit = 1 << 3,
    kControl = 1 << 4,  // ftfy removes it
    kContinuationStrict = 1 << 5,
    kContinuation = 1 << 6,
    kFirstOf2 = 1 << 7,
    kFirstOf3 = 1 << 8,
    kFirstOf4 = 1 << 9,
    kIsLowered = 1 << 10,       // has an entry in kLowered
    kIsTranslated = 1 << 11,    // has an entry in kTranslated
    kIsDecomposed = 1 << 12,    // has an entry in kDecomposed
    kNeedsComposing = 1 << 13,  // a text without any such character is in the form NFC
    kIsEncodable = 1 << 14      // has an entry in kEncoded
};

/// What is known about a character; `group` is its column in kBadnessSteps.
struct Record {
    std::uint16_t properties;
    std::uint8_t group, combining_class;
};

/// A piece of kTexts.
struct Text {
    std::uint16_t offset, length;
};

struct Mapping {
    char32_t from;
    Text to;
};

struct Composition {
    char32_t first, second, joined;
};

/// A character's byte in each of ftfy's single-byte encodings whose bit is set in `encodings`.
struct Encoded {
    char32_t character;
    std::uint16_t encodings;
    std::array<std::uint8_t, 10> bytes;
};

/// 256 bits, one a byte.
struct ByteClass {
    std::array<std::uint32_t, 8> bits;
};

/// Numbers of classes, filled up with class 0, to which no byte belongs.
struct ByteSequence {
    std::array<std::uint8_t, 6> classes;
};

/// An HTML entity; its name starts at `name` in the characters of all names.
struct Entity {
    std::uint16_t name, length;
    Text text;
};

/// A numeric character reference, and the character that it stands for instead.
struct Reference {
    char32_t number, character;
};

extern const Record kRecords[];
extern const std::uint16_t kTopPages[], kMiddlePages[], kPages[];
extern const std::uint8_t kBadnessSteps[];  // rows are states, columns are groups
extern const std::size_t kBadnessGroups;
extern const std::uint8_t kBadnessFound;  // the state that ends the search
extern const std::span<const Mapping> kLowered, kTranslated, kDecomposed;
extern const std::span<const Composition> kCompositions;
extern const std::span<const Encoded> kEncoded;
extern const char32_t kSloppyC1[32], kStrictC1[32];  // Windows-1252 from 0x80 to 0x9F; strict: U+FFFD where nothing is assigned
extern const std::span<const ByteClass> kAlteredClasses, kLossyClasses;
extern const std::span<const ByteSequence> kAlteredSequences, kLossySequences;
extern const char kEntitiesNames[], kCapitalEntitiesNames[];
extern const std::span<const Entity> kEntities, kCapitalEntities;
extern const std::span<const Reference> kReplacedReferences;
extern const std::span<const char32_t> kDroppedReferences;
extern const char32_t kTexts[];

}  // namespace oce::core::tables
