// JSON read against a schema: only the schema's fields are kept, every value has its type, and nothing required is missing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "bundle/schema.hpp"

namespace oce::core {

// Large enough to hold every integer of 64 bits; those of more bits become the ends of its range.
__extension__ typedef __int128 WideInteger;

struct Absent {};
struct Null {};
struct Value;
using List = std::vector<Value>;

/// A struct's fields in the order of its table.
struct Record {
    const Struct* structure = nullptr;
    List fields;
};

/// An object with free names, in the order of their first appearance.
struct Entry;
using Dictionary = std::vector<Entry>;

struct Value {
    std::variant<Absent, Null, bool, WideInteger, double, std::string, List, Record, Dictionary> held;
    // Number of entries of a list or dictionary; those past the limit for all of them are counted, but not kept.
    std::size_t entries = 0;

    template <typename Kind>
    [[nodiscard]] const Kind* if_a() const {
        return std::get_if<Kind>(&held);
    }
    template <typename Kind>
    [[nodiscard]] const Kind& as() const {
        return std::get<Kind>(held);
    }
    /// A field of a record by name.
    [[nodiscard]] const Value& operator[](std::string_view name) const;
};

struct Entry {
    std::string name;
    Value value;
};

/// Read JSON. Throws std::invalid_argument with the first problem in words: it is no JSON, or a value does not fit the schema.
Value read_json(std::string_view text, const Type& type);

}  // namespace oce::core
