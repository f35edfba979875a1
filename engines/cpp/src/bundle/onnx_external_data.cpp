// Reads the fields on the way to TensorProto.external_data; field numbers are those of onnx.proto (IR version 3 and later).
#include "bundle/onnx_external_data.hpp"

#include <array>
#include <charconv>
#include <cstdint>
#include <span>
#include <stdexcept>

#include "bundle/python_text.hpp"

namespace oce::core {
namespace {

constexpr int kDepthLimit = 64;
constexpr std::uint64_t kTensorName = 8;
constexpr std::uint64_t kTensorExternalData = 13;

enum class Message { model, graph, function, node, attribute, sparse, tensor };

/// A field that holds messages on the way to tensors.
struct Child {
    std::uint64_t number;
    Message message;
};

constexpr std::array kModelChildren{Child{7, Message::graph}, Child{25, Message::function}};
constexpr std::array kGraphChildren{Child{1, Message::node}, Child{5, Message::tensor}, Child{15, Message::sparse}};
constexpr std::array kFunctionChildren{Child{7, Message::node}, Child{11, Message::attribute}};
constexpr std::array kNodeChildren{Child{5, Message::attribute}};
constexpr std::array kAttributeChildren{Child{5, Message::tensor}, Child{6, Message::graph},   Child{10, Message::tensor},
                                        Child{11, Message::graph}, Child{22, Message::sparse}, Child{23, Message::sparse}};
constexpr std::array kSparseChildren{Child{1, Message::tensor}, Child{2, Message::tensor}};

std::span<const Child> children_of(Message message) {
    switch (message) {
        case Message::model:
            return kModelChildren;
        case Message::graph:
            return kGraphChildren;
        case Message::function:
            return kFunctionChildren;
        case Message::node:
            return kNodeChildren;
        case Message::attribute:
            return kAttributeChildren;
        case Message::sparse:
            return kSparseChildren;
        case Message::tensor:
            break;
    }
    return {};
}

/// The fields of a message that hold bytes; `next` passes over all others.
class Fields {
public:
    explicit Fields(std::string_view message) : rest_(message) {}

    bool next() {
        while (!rest_.empty()) {
            if (read_field()) return true;
        }
        return false;
    }
    [[nodiscard]] std::uint64_t number() const { return number_; }
    [[nodiscard]] std::string_view bytes() const { return bytes_; }

private:
    /// Read one field; whether it holds bytes.
    bool read_field() {
        const std::uint64_t key = varint();
        const std::uint64_t wire = key & 7;
        number_ = key >> 3;
        if (number_ == 0) throw std::invalid_argument("field number 0");
        switch (wire) {
            case 0:
                varint();
                return false;
            case 1:
                take(8);
                return false;
            case 2:
                bytes_ = take(varint());
                return true;
            case 5:
                take(4);
                return false;
            default:
                throw std::invalid_argument("wire type " + std::to_string(wire));
        }
    }

    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (int shift = 0; shift <= 63; shift += 7) {
            const auto byte = static_cast<unsigned char>(take(1).front());
            if (shift == 63 && byte > 1) break;
            value |= std::uint64_t{byte & 0x7FU} << shift;
            if ((byte & 0x80) == 0) return value;
        }
        throw std::invalid_argument("a number is too long");
    }

    std::string_view take(std::uint64_t count) {
        if (count > rest_.size()) throw std::invalid_argument("a field runs past the end");
        const std::string_view taken = rest_.substr(0, count);
        rest_.remove_prefix(count);
        return taken;
    }

    std::string_view rest_;
    std::uint64_t number_ = 0;
    std::string_view bytes_;
};

std::int64_t parse_number(std::string_view digits) {
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error != std::errc() || end != digits.data() + digits.size())
        throw std::invalid_argument("a place in a data file is no number");
    return number;
}

std::string_view checked_text(std::string_view bytes) {
    if (!is_utf8(bytes)) throw std::invalid_argument("a name is not UTF-8");
    return bytes;
}

/// The key and value of an entry of external_data.
std::pair<std::string_view, std::string_view> entry_of(std::string_view message) {
    std::string_view key;
    std::string_view value;
    for (Fields fields(message); fields.next();) {
        const std::string_view text = checked_text(fields.bytes());
        if (fields.number() == 1) key = text;
        if (fields.number() == 2) value = text;
    }
    return {key, value};
}

void read_tensor(std::string_view message, std::vector<ExternalData>& found) {
    std::string_view name;
    std::map<std::string_view, std::string_view> entries;
    for (Fields fields(message); fields.next();) {
        if (fields.number() == kTensorName) name = fields.bytes();
        if (fields.number() != kTensorExternalData) continue;
        const auto [key, value] = entry_of(fields.bytes());
        entries[key] = value;
    }
    const auto location = entries.find("location");
    if (location == entries.end()) return;
    ExternalData item{repaired(name), std::string(location->second), 0, {}};
    if (const auto offset = entries.find("offset"); offset != entries.end()) item.offset = parse_number(offset->second);
    if (const auto length = entries.find("length"); length != entries.end()) item.length = parse_number(length->second);
    found.push_back(std::move(item));
}

void walk(std::string_view message, Message kind, std::vector<ExternalData>& found, int depth) {
    if (depth > kDepthLimit) throw std::invalid_argument("graphs are nested too deeply");
    if (kind == Message::tensor) {
        read_tensor(message, found);
        return;
    }
    for (Fields fields(message); fields.next();) {
        for (const Child& child : children_of(kind)) {
            if (child.number == fields.number()) walk(fields.bytes(), child.message, found, depth + 1);
        }
    }
}

}  // namespace

std::vector<ExternalData> external_data(std::string_view model) {
    std::vector<ExternalData> found;
    walk(model, Message::model, found, 0);
    return found;
}

}  // namespace oce::core
