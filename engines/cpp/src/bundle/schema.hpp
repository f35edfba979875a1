// How tables describe the manifest: types, fields with their ranges, structs. schema_table.hpp has the tables.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace oce::core {

/// The kinds of JSON values that a type accepts, as a set of bits.
enum Accepts : unsigned {
    kBoolean = 1,
    kInteger = 2,  // a number without point and exponent
    kNumber = 4,   // any number
    kText = 8,
    kList = 16,
    kObject = 32,  // an object, of a struct's fields or of free names
    kNull = 64,
};

struct Struct;

/// What a field, or an item of a list or an object, may be.
struct Type {
    unsigned accepts = 0;
    std::span<const std::string_view> choices = {};  // of a text, if any
    const Struct* structure = nullptr;               // of an object; null: its names are free
    const Type* item = nullptr;                      // of a list, or of an object whose names are free
    std::size_t length = 0;                          // of a list; 0: any
    std::span<const std::string_view> names = {};    // of an object whose names are not quite free
};

/// The smallest and largest number of a field; both are allowed.
struct NumberRange {
    double low, high;
    std::string_view words;
};

/// The characters and the length, or the texts, that a field is limited to.
struct TextRange {
    bool (*matches)(std::string_view text);
    std::string_view words;
};

struct Field {
    std::string_view name;
    const Type* type;
    bool required = true;
    const NumberRange* numbers = nullptr;  // of every number in the field
    const TextRange* texts = nullptr;      // of every text in the field, but not of names
};

struct Struct {
    std::span<const Field> fields;
};

}  // namespace oce::core
