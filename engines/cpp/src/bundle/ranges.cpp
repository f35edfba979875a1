// Walks over a manifest's values in the order of the schema, up to the first one out of its range.
#include "bundle/ranges.hpp"

#include "bundle/python_text.hpp"
#include "bundle/schema_table.hpp"

namespace oce::core {
namespace {

using Problem = std::optional<std::string>;

constexpr std::size_t kShownCharacters = 100;

std::string shown(const std::string& text) {
    return shortened(python_repr(text), kShownCharacters);
}

std::string shown(double number) {
    return python_repr(number);
}

std::string shown(WideInteger number) {
    const WideInteger magnitude = number < 0 ? -number : number;
    if ((magnitude >> 64) != 0) return "a number of more than 64 bits";
    return (number < 0 ? "-" : "") + std::to_string(static_cast<std::uint64_t>(magnitude));
}

/// A place in the manifest; its words are only made when there is a problem, because a manifest may have a million places.
struct Place {
    const Place* parent = nullptr;
    std::string_view field;             // a record's
    const std::string* name = nullptr;  // a dictionary's
    std::size_t index = 0;              // a list's

    [[nodiscard]] std::string words() const {
        if (parent == nullptr) return "";
        const std::string before = parent->words();
        if (!field.empty()) return before + (before.empty() ? "" : ".") + std::string(field);
        return before + "[" + (name != nullptr ? shown(*name) : std::to_string(index)) + "]";
    }
};

Problem count_problem(std::size_t count, const Place& place) {
    if (count <= kMaxEntries) return {};
    return place.words() + " has " + std::to_string(count) + " entries: at most " + std::to_string(kMaxEntries) + " are allowed";
}

Problem text_problem(const std::string& text, const TextRange* range, const Place& place, const char* before = "") {
    const std::size_t count = text.size() <= kMaxText ? 0 : count_characters(text);
    if (count > kMaxText) {
        return before + place.words() + " has " + std::to_string(count) + " characters: at most " + std::to_string(kMaxText) +
               " are allowed";
    }
    if (range == nullptr || range->matches(text)) return {};
    return place.words() + " is " + shown(text) + ": it must be " + std::string(range->words);
}

template <typename Number>
Problem number_problem(Number number, const NumberRange* range, const Place& place) {
    if (range == nullptr) return {};
    // The ends of an integer's range are integers.
    if (static_cast<Number>(range->low) <= number && number <= static_cast<Number>(range->high)) return {};
    return place.words() + " is " + shown(number) + ": it must be " + std::string(range->words);
}

Problem problem_of(const Value& value, const Field* field, const Place& place);

Problem record_problem(const Record& record, const Place& place) {
    for (std::size_t i = 0; i < record.fields.size(); ++i) {
        const Field& field = record.structure->fields[i];
        if (auto problem = problem_of(record.fields[i], &field, {&place, field.name, nullptr, 0})) return problem;
    }
    return {};
}

Problem dictionary_problem(const Value& value, const Field* field, const Place& place) {
    if (auto problem = count_problem(value.entries, place)) return problem;
    for (const auto& [name, item] : value.as<Dictionary>()) {
        if (auto problem = text_problem(name, nullptr, place, "a name in ")) return problem;
        if (auto problem = problem_of(item, field, {&place, {}, &name, 0})) return problem;
    }
    return {};
}

Problem list_problem(const Value& value, const Field* field, const Place& place) {
    if (auto problem = count_problem(value.entries, place)) return problem;
    std::size_t index = 0;
    for (const Value& item : value.as<List>()) {
        if (auto problem = problem_of(item, field, {&place, {}, nullptr, index++})) return problem;
    }
    return {};
}

/// The problem of a value in a field; an item of a list or a dictionary has the range of its field.
Problem problem_of(const Value& value, const Field* field, const Place& place) {
    if (const auto* record = value.if_a<Record>()) return record_problem(*record, place);
    if (value.if_a<Dictionary>() != nullptr) return dictionary_problem(value, field, place);
    if (value.if_a<List>() != nullptr) return list_problem(value, field, place);
    if (const auto* text = value.if_a<std::string>()) return text_problem(*text, field->texts, place);
    if (const auto* integer = value.if_a<WideInteger>()) return number_problem(*integer, field->numbers, place);
    if (const auto* number = value.if_a<double>()) return number_problem(*number, field->numbers, place);
    return {};
}

}  // namespace

std::optional<std::string> out_of_range(const Value& manifest) {
    return problem_of(manifest, nullptr, Place{});
}

}  // namespace oce::core
