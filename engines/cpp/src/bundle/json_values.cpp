// Reads JSON event by event against a schema, so that what the schema does not name takes no memory; mirrors msgspec's rules and
// words.
#include "bundle/json_values.hpp"

#include <algorithm>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "bundle/python_text.hpp"
#include "bundle/schema_table.hpp"

namespace oce::core {
namespace {

constexpr std::size_t kMaxDepth = 1000;  // of objects and lists inside each other, as Python's reader has it, too
constexpr WideInteger kEndOfIntegers = static_cast<WideInteger>(1) << 100;

/// An object or list whose end has not come yet.
struct Opened {
    const Type* type = nullptr;
    Value* value = nullptr;
    // Where the next value goes; no type: to a field that the schema does not name.
    const Type* next_type = nullptr;
    Value* next = nullptr;
    std::string_view field;                    // of a record
    std::map<std::string, std::size_t> names;  // of a dictionary, to their places
    Value beyond;                              // takes entries past the limit
};

std::string expected(unsigned accepts) {
    constexpr std::pair<unsigned, const char*> kNames[]{{kBoolean, "bool"},  {kInteger, "int"}, {kNumber, "float"}, {kText, "str"},
                                                        {kObject, "object"}, {kList, "array"},  {kNull, "null"}};
    std::string words;
    for (const auto& [bit, name] : kNames) {
        if ((accepts & bit) != 0) words += (words.empty() ? "" : " | ") + std::string(name);
    }
    return "Expected `" + words + "`";
}

/// The number of an integer token; a number of more than 100 bits becomes the end of the range.
WideInteger parse_integer(std::string_view token) {
    const bool negative = token.starts_with('-');
    WideInteger number = 0;
    for (const char digit : token.substr(negative ? 1 : 0)) {
        number = std::min(number * 10 + (digit - '0'), kEndOfIntegers);
    }
    return negative ? -number : number;
}

class Reader final : public nlohmann::json_sax<nlohmann::json> {
public:
    explicit Reader(const Type& type) : type_(type) {}
    Value take() { return std::move(root_); }

    bool null() override {
        return put(kNull, "null", [] { return Null{}; });
    }
    bool boolean(bool value) override {
        return put(kBoolean, "bool", [&] { return value; });
    }
    bool number_integer(std::int64_t value) override { return integer(value, static_cast<double>(value)); }
    bool number_unsigned(std::uint64_t value) override { return integer(value, static_cast<double>(value)); }
    bool number_float(double value, const std::string& token) override {
        // Whole numbers of more than 64 bits come here, too; where the schema has none, msgspec calls them floats.
        if (token.find_first_of(".eE") == token.npos) return integer(parse_integer(token), value, "float");
        return put(kNumber, "float", [&] { return value; });
    }
    bool string(std::string& value) override {
        return put(kText, "str", [&] {
            if (!is_one_of(value, next_type_->choices)) fail("Invalid enum value " + python_repr(value), place(opened_.size()));
            return std::move(value);
        });
    }
    bool binary(nlohmann::json::binary_t& /*value*/) override { return false; }  // JSON has none

    bool start_object(std::size_t /*size*/) override {
        const auto make = [](const Type& type) -> decltype(Value::held) {
            if (type.structure == nullptr) return Dictionary{};
            return Record{type.structure, List(type.structure->fields.size())};
        };
        return open(kObject, "object", make);
    }
    bool start_array(std::size_t /*size*/) override {
        return open(kList, "array", [](const Type&) -> decltype(Value::held) { return List{}; });
    }
    bool key(std::string& name) override {
        if (passed_over_ == 0) choose(opened_.back(), name);
        return true;
    }
    bool end_object() override {
        --depth_;
        if (passed_over_ > 0) return end_passed_over();
        if (const auto* const record = opened_.back().value->if_a<Record>()) check_required(*record);
        opened_.pop_back();
        return true;
    }
    bool end_array() override {
        --depth_;
        if (passed_over_ > 0) return end_passed_over();
        const Opened& list = opened_.back();
        if (list.type->length != 0 && list.value->entries != list.type->length) fail_length(*list.type);
        opened_.pop_back();
        return true;
    }
    bool parse_error(std::size_t position, const std::string& /*token*/, const nlohmann::json::exception& error) override {
        constexpr int kNumberOutOfRange = 406;
        if (error.id == kNumberOutOfRange) fail("Number out of range", "");
        fail("JSON is malformed (byte " + std::to_string(position == 0 ? 0 : position - 1) + ")", "");
    }

private:
    [[noreturn]] static void fail(const std::string& problem, const std::string& where) {
        throw std::invalid_argument(where.empty() ? problem : problem + " - at " + where);
    }
    [[noreturn]] void fail_length(const Type& list) {
        fail("Expected `array` of length " + std::to_string(list.length), place(opened_.size() - 1));
    }

    static bool is_one_of(std::string_view name, std::span<const std::string_view> choices) {
        return choices.empty() || std::find(choices.begin(), choices.end(), name) != choices.end();
    }

    /// The place of the value inside the first `count` opened ones: `$.engines[0].batch`; nothing for the root.
    [[nodiscard]] std::string place(std::size_t count) const {
        if (count == 0) return "";
        std::string path = "`$";
        for (std::size_t i = 0; i < count; ++i) {
            const Opened& opened = opened_[i];
            if (opened.value->if_a<Record>() != nullptr) path.append(".").append(opened.field);
            if (opened.value->if_a<Dictionary>() != nullptr) path += "[...]";
            if (opened.value->if_a<List>() != nullptr) path += "[" + std::to_string(opened.value->entries - 1) + "]";
        }
        return path + "`";
    }

    /// Find the place of the next value; false where it is passed over.
    bool aim() {
        if (passed_over_ > 0) return false;
        if (opened_.empty()) {
            next_type_ = &type_;
            next_ = &root_;
            return true;
        }
        Opened& inside = opened_.back();
        if (inside.value->if_a<List>() != nullptr) append(inside);
        next_type_ = inside.next_type;
        next_ = inside.next;
        return next_type_ != nullptr;
    }

    void append(Opened& list) {
        if (list.type->length != 0 && list.value->entries == list.type->length) fail_length(*list.type);
        auto& items = std::get<List>(list.value->held);
        list.next_type = list.type->item;
        list.next = &list.beyond;
        if (list.value->entries++ < kMaxEntries) list.next = &items.emplace_back();
    }

    /// Aim at the field or entry of a name. A name that comes twice has the value of the last time, as in Python.
    void choose(Opened& object, const std::string& name) {
        object.next_type = object.type->item;
        if (auto* const record = std::get_if<Record>(&object.value->held)) {
            const auto fields = record->structure->fields;
            const auto found = std::find_if(fields.begin(), fields.end(), [&](const Field& field) { return field.name == name; });
            object.next_type = found == fields.end() ? nullptr : found->type;
            if (found == fields.end()) return;
            object.field = found->name;
            object.next = &record->fields[static_cast<std::size_t>(found - fields.begin())];
            return;
        }
        if (!is_one_of(name, object.type->names)) {
            const std::string where = opened_.size() == 1 ? "`$`" : place(opened_.size() - 1);
            fail("Invalid enum value " + python_repr(name), "`key` in " + where);
        }
        auto& items = std::get<Dictionary>(object.value->held);
        const auto [entry, is_new] = object.names.emplace(name, items.size());
        object.value->entries = object.names.size();
        if (is_new && items.size() < kMaxEntries) items.push_back({name, {}});
        object.next = entry->second < items.size() ? &items[entry->second].value : &object.beyond;
    }

    bool integer(WideInteger value, double nearest, const char* name = "int") {
        if (aim_is_float()) return put(kNumber, name, [&] { return nearest; });
        return put(kInteger, name, [&] { return value; });
    }

    [[nodiscard]] bool aim_is_float() const {
        if (passed_over_ > 0 || opened_.empty()) return false;
        const Opened& inside = opened_.back();
        const Type* const type = inside.value->if_a<List>() != nullptr ? inside.type->item : inside.next_type;
        return type != nullptr && (type->accepts & kNumber) != 0;
    }

    template <typename Make>
    bool put(unsigned kind, const char* name, Make make) {
        if (!aim()) return true;
        if ((next_type_->accepts & kind) == 0) fail(expected(next_type_->accepts) + ", got `" + name + "`", place(opened_.size()));
        next_->held = make();
        next_->entries = 0;
        return true;
    }

    template <typename Make>
    bool open(unsigned kind, const char* name, Make make) {
        if (++depth_ > kMaxDepth) fail("objects and lists are nested too deeply", "");
        if (!aim()) {
            ++passed_over_;
            return true;
        }
        put_container(kind, name, make);
        return true;
    }

    template <typename Make>
    void put_container(unsigned kind, const char* name, Make make) {
        const Type* const type = next_type_;
        Value* const value = next_;
        if ((type->accepts & kind) == 0) fail(expected(type->accepts) + ", got `" + name + "`", place(opened_.size()));
        value->held = make(*type);
        value->entries = 0;
        Opened& opened = opened_.emplace_back();
        opened.type = type;
        opened.value = value;
    }

    bool end_passed_over() {
        --passed_over_;
        return true;
    }

    void check_required(const Record& record) {
        for (std::size_t i = 0; i < record.fields.size(); ++i) {
            const Field& field = record.structure->fields[i];
            if (field.required && record.fields[i].if_a<Absent>() != nullptr) {
                fail("Object missing required field `" + std::string(field.name) + "`", place(opened_.size() - 1));
            }
        }
    }

    const Type& type_;
    Value root_;
    std::deque<Opened> opened_;  // a deque, because values may lie in `beyond` of one of them
    std::size_t depth_ = 0;
    std::size_t passed_over_ = 0;  // number of opened ones that the schema does not name
    const Type* next_type_ = nullptr;
    Value* next_ = nullptr;
};

}  // namespace

const Value& Value::operator[](std::string_view name) const {
    const auto& record = as<Record>();
    for (std::size_t i = 0; i < record.fields.size(); ++i) {
        if (record.structure->fields[i].name == name) return record.fields[i];
    }
    throw std::logic_error("the schema has no field " + std::string(name));
}

Value read_json(std::string_view text, const Type& type) {
    // The parser takes a zero byte for the end of the text, and passes over a byte order mark; JSON has neither.
    const std::size_t zero = text.find('\0');
    if (zero != text.npos) throw std::invalid_argument("JSON is malformed: invalid character (byte " + std::to_string(zero) + ")");
    if (text.starts_with("\xEF\xBB\xBF")) throw std::invalid_argument("JSON is malformed: invalid character (byte 0)");
    Reader reader(type);
    nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
    return reader.take();
}

}  // namespace oce::core
