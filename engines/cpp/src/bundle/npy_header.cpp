// Reads the header of a .npy array: a Python dictionary with descr, fortran_order and shape.
#include "bundle/npy_header.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <stdexcept>

namespace oce::core {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr std::size_t kMaxHeaderBytes = 10'000;            // numpy's own limit
constexpr std::size_t kMaxAxes = 64;                       // numpy's own limit
constexpr std::int64_t kMaxItems = std::int64_t{1} << 40;  // of an axis and of an array, so that no product overflows

struct Dtype {
    std::string_view code, name;
    std::size_t bytes;
};

constexpr std::array kDtypes = std::to_array<Dtype>({
    {"u1", "uint8", 1},
    {"i1", "int8", 1},
    {"b1", "bool", 1},
    {"i4", "int32", 4},
    {"u4", "uint32", 4},
    {"i8", "int64", 8},
    {"f4", "float32", 4},
    {"f8", "float64", 8},
});

[[noreturn]] void fail(const std::string& problem) {
    throw std::invalid_argument(problem);
}

/// The text of the dictionary, taken piece by piece.
class Text {
public:
    explicit Text(std::string_view text) : rest_(text) {}

    /// Whether the next sign is this one; it is then taken.
    bool take(std::string_view sign) {
        skip_blanks();
        if (!rest_.starts_with(sign)) return false;
        rest_.remove_prefix(sign.size());
        return true;
    }
    void need(std::string_view sign) {
        if (!take(sign)) fail("an array's header is damaged");
    }
    std::string_view string() {
        skip_blanks();
        const char quote = rest_.empty() ? ' ' : rest_.front();
        const std::size_t end = quote == '\'' || quote == '"' ? rest_.find(quote, 1) : rest_.npos;
        if (end == rest_.npos) fail("an array's header is damaged");
        const std::string_view inside = rest_.substr(1, end - 1);
        rest_.remove_prefix(end + 1);
        return inside;
    }
    std::int64_t integer() {
        skip_blanks();
        std::int64_t value = -1;
        const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
        if (error != std::errc() || value < 0 || value > kMaxItems) fail("an array's shape is damaged, or too large");
        rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
        return value;
    }
    bool is_at_end() {
        skip_blanks();
        return rest_.empty();
    }

private:
    void skip_blanks() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\n\r"), rest_.size())); }

    std::string_view rest_;
};

void read_dtype(Text& text, NpyHeader& header) {
    const std::string_view descr = text.string();
    const auto is_it = [&](const Dtype& dtype) {
        return descr.size() == 3 && descr.substr(1) == dtype.code && (descr[0] == '<' || (descr[0] == '|' && dtype.bytes == 1));
    };
    const auto* const found = std::find_if(kDtypes.begin(), kDtypes.end(), is_it);
    if (found == kDtypes.end()) fail("an array has a dtype that no reference file has");
    header.dtype = found->name;
    header.item_bytes = found->bytes;
}

void read_order(Text& text, NpyHeader& header) {
    header.is_fortran = text.take("True");
    if (!header.is_fortran) text.need("False");
}

void read_shape(Text& text, NpyHeader& header) {
    text.need("(");
    bool has_comma = true;
    while (!text.take(")")) {
        if (!has_comma) fail("an array's header is damaged");
        if (header.shape.size() == kMaxAxes) fail("an array has too many axes");
        header.shape.push_back(text.integer());
        has_comma = text.take(",");
    }
    // In Python, (3) is a number and (3,) a tuple.
    if (header.shape.size() == 1 && !has_comma) fail("an array's header is damaged");
}

/// The number of items; a size of 0 anywhere makes it 0.
std::size_t item_count(const std::vector<std::int64_t>& shape) {
    if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
    std::int64_t count = 1;
    for (const std::int64_t size : shape) {
        if (count > kMaxItems / size) fail("an array is too large");
        count *= size;
    }
    return static_cast<std::size_t>(count);
}

std::string_view header_text(std::string_view file) {
    if (file.size() < kMagic.size() + 4 || !file.starts_with(kMagic)) fail("a member is no array");
    const auto byte = [&](std::size_t i) { return std::size_t{static_cast<unsigned char>(file[i])}; };
    const std::size_t version = byte(6);
    if (version < 1 || version > 3 || byte(7) != 0) fail("an array is of an unknown version");
    const std::size_t size_bytes = version == 1 ? 2 : 4;
    std::size_t begin = kMagic.size() + 2 + size_bytes;
    if (file.size() < begin) fail("an array's header is cut");
    std::size_t size = 0;
    for (std::size_t i = size_bytes; i-- > 0;) size = size << 8 | byte(kMagic.size() + 2 + i);
    if (size > kMaxHeaderBytes || size > file.size() - begin) fail("an array's header is cut, or too long");
    return file.substr(begin, size);
}

}  // namespace

NpyHeader read_npy_header(std::string_view file) {
    NpyHeader header;
    const std::string_view whole = header_text(file);
    header.header_bytes = static_cast<std::size_t>(whole.data() + whole.size() - file.data());
    Text text(whole);
    unsigned seen = 0;  // a bit for each field, which must all be there once
    text.need("{");
    while (!text.take("}")) {
        const std::string_view name = text.string();
        text.need(":");
        const unsigned bit = name == "descr" ? 1 : name == "fortran_order" ? 2 : name == "shape" ? 4 : 0;
        if (bit == 0 || (seen & bit) != 0) fail("an array's header is damaged");
        seen |= bit;
        if (bit == 1) read_dtype(text, header);
        if (bit == 2) read_order(text, header);
        if (bit == 4) read_shape(text, header);
        if (text.take(",")) continue;
        text.need("}");
        break;
    }
    if (seen != 7 || !text.is_at_end()) fail("an array's header is damaged");
    header.count = item_count(header.shape);
    return header;
}

}  // namespace oce::core
