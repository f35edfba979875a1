// The arrays of numpy's archives, brought into C order.
#include "bundle/npz.hpp"

#include <cstring>
#include <stdexcept>

#include "bundle/npy_header.hpp"
#include "bundle/zip_archive.hpp"

namespace oce::core {
namespace {

constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 30;  // of all arrays together; a reference file has 4 MB
constexpr std::string_view kSuffix = ".npy";

/// Bring items that lie with the first axis fastest into the order with the last axis fastest.
std::vector<unsigned char> c_order(const std::vector<unsigned char>& items, const NpyHeader& header) {
    const std::size_t axes = header.shape.size();
    std::vector<std::size_t> strides(axes, header.item_bytes);
    for (std::size_t axis = 1; axis < axes; ++axis) {
        strides[axis] = strides[axis - 1] * static_cast<std::size_t>(header.shape[axis - 1]);
    }
    std::vector<unsigned char> ordered(items.size());
    std::vector<std::int64_t> index(axes);
    std::size_t from = 0;
    for (std::size_t to = 0; to < ordered.size(); to += header.item_bytes) {
        std::memcpy(ordered.data() + to, items.data() + from, header.item_bytes);
        for (std::size_t axis = axes; axis-- > 0;) {
            from += strides[axis];
            if (++index[axis] < header.shape[axis]) break;
            from -= strides[axis] * static_cast<std::size_t>(header.shape[axis]);
            index[axis] = 0;
        }
    }
    return ordered;
}

NpyArray array_of(std::vector<unsigned char> file) {
    const NpyHeader header = read_npy_header({reinterpret_cast<const char*>(file.data()), file.size()});
    if (file.size() - header.header_bytes != header.count * header.item_bytes) {
        throw std::invalid_argument("an array has another number of bytes than its shape says");
    }
    file.erase(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(header.header_bytes));
    if (header.is_fortran && header.shape.size() > 1) file = c_order(file, header);
    return {header.dtype, header.shape, std::move(file)};
}

}  // namespace

std::map<std::string, NpyArray> read_npz(std::string_view archive) {
    std::map<std::string, NpyArray> arrays;
    std::uint64_t left = kMaxBytes;
    for (const ZipMember& member : zip_members(archive)) {
        if (!member.name.ends_with(kSuffix)) continue;
        if (member.size > left) throw std::invalid_argument("its arrays are larger than those of any reference file");
        left -= member.size;
        arrays[member.name.substr(0, member.name.size() - kSuffix.size())] = array_of(unpack(member));
    }
    return arrays;
}

}  // namespace oce::core
