// The directory of a zip archive (APPNOTE.TXT of PKWARE, 4.3 and 4.5.3), and the unpacking of its members by zlib.
#include "bundle/zip_archive.hpp"

#include <zlib.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace oce::core {
namespace {

constexpr std::uint64_t kEndSize = 22, kEnd64Size = 56, kLocator64Size = 20, kEntrySize = 46, kLocalSize = 30;
constexpr std::uint32_t kEnd = 0x06054b50, kEnd64 = 0x06064b50, kLocator64 = 0x07064b50, kEntry = 0x02014b50, kLocal = 0x04034b50;
constexpr std::uint64_t kMaxCommentSize = 65535;
constexpr std::uint64_t kIn64 = 0xFFFFFFFF;     // the number stands in the extra field of zip64
constexpr std::uint64_t kEntriesIn64 = 0xFFFF;  // the same of the number of entries
constexpr std::uint64_t kZip64Extra = 1;
constexpr std::uint64_t kUnreadableFlags = 0x61;  // encrypted in one of two ways, or a patch of another file
// Deflate packs at most 258 bytes into 2 bits.
constexpr std::uint64_t kMostDeflated = 1032;

[[noreturn]] void fail(const std::string& problem) {
    throw std::invalid_argument(problem);
}

std::string_view part(std::string_view bytes, std::uint64_t begin, std::uint64_t count) {
    if (begin > bytes.size() || count > bytes.size() - begin) fail("the archive is cut");
    return bytes.substr(begin, count);
}

/// A number of `count` bytes, the low one first.
std::uint64_t number(std::string_view bytes, std::uint64_t begin, std::uint64_t count) {
    std::uint64_t value = 0;
    const std::string_view digits = part(bytes, begin, count);
    for (std::uint64_t i = 0; i < count; ++i) value |= std::uint64_t{static_cast<unsigned char>(digits[i])} << (8 * i);
    return value;
}

struct Directory {
    std::string_view bytes;
    std::uint64_t entries = 0;
};

Directory directory_64(std::string_view archive, std::uint64_t end) {
    if (end < kLocator64Size || number(archive, end - kLocator64Size, 4) != kLocator64) fail("the archive's directory is damaged");
    const std::uint64_t at = number(archive, end - kLocator64Size + 8, 8);
    const std::string_view record = part(archive, at, kEnd64Size);
    if (number(record, 0, 4) != kEnd64) fail("the archive's directory is damaged");
    return {part(archive, number(record, 48, 8), number(record, 40, 8)), number(record, 32, 8)};
}

Directory find_directory(std::string_view archive) {
    if (archive.size() < kEndSize) fail("it is no archive");
    // A comment may follow the record of the end, so that it is searched from behind.
    const std::uint64_t last = archive.size() - kEndSize;
    const std::uint64_t first = last - std::min(last, kMaxCommentSize);
    for (std::uint64_t at = last + 1; at-- > first;) {
        if (number(archive, at, 4) != kEnd || number(archive, at + 20, 2) != last - at) continue;
        const std::uint64_t entries = number(archive, at + 10, 2), size = number(archive, at + 12, 4),
                            begin = number(archive, at + 16, 4);
        if (entries == kEntriesIn64 || size == kIn64 || begin == kIn64) return directory_64(archive, at);
        return {part(archive, begin, size), entries};
    }
    fail("it is no archive");
}

/// The numbers of an entry that may stand in the extra field of zip64, in the order in which they stand there.
struct Sizes {
    std::uint64_t unpacked, packed, local;
};

void read_zip64(std::string_view extra, Sizes& sizes) {
    while (extra.size() >= 4) {
        const std::uint64_t kind = number(extra, 0, 2);
        std::string_view field = part(extra, 4, number(extra, 2, 2));
        extra.remove_prefix(4 + field.size());
        if (kind != kZip64Extra) continue;
        for (std::uint64_t* size : {&sizes.unpacked, &sizes.packed, &sizes.local}) {
            if (*size != kIn64) continue;
            *size = number(field, 0, 8);
            field.remove_prefix(8);
        }
        return;
    }
}

/// The packed bytes of a member behind its local header, whose name must be the directory's.
std::string_view packed_bytes(std::string_view archive, const Sizes& sizes, std::string_view name) {
    const std::string_view header = part(archive, sizes.local, kLocalSize);
    if (number(header, 0, 4) != kLocal) fail("a member's header is damaged");
    const std::uint64_t name_size = number(header, 26, 2);
    const std::uint64_t extra_size = number(header, 28, 2);
    if (part(archive, sizes.local + kLocalSize, name_size) != name) fail("a member has another name than in the directory");
    return part(archive, sizes.local + kLocalSize + name_size + extra_size, sizes.packed);
}

std::vector<unsigned char> inflate_all(const ZipMember& member) {
    if (member.size / kMostDeflated > member.packed.size()) fail("a member claims more bytes than it can hold");
    if (std::max<std::uint64_t>(member.size, member.packed.size()) > std::numeric_limits<uInt>::max())
        fail("a member is too large");
    std::vector<unsigned char> bytes(member.size + 1);  // one byte more shows a member that goes on
    z_stream stream{};
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::bad_alloc();
    // zlib does not write to its input, but does not say so without ZLIB_CONST.
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(member.packed.data()));
    stream.avail_in = static_cast<uInt>(member.packed.size());
    stream.next_out = bytes.data();
    stream.avail_out = static_cast<uInt>(bytes.size());
    const int result = inflate(&stream, Z_FINISH);
    const std::uint64_t size = stream.total_out;
    inflateEnd(&stream);
    if (result == Z_MEM_ERROR) throw std::bad_alloc();
    if (result != Z_STREAM_END || size != member.size) fail("a member's packed bytes are damaged");
    bytes.resize(size);
    return bytes;
}

}  // namespace

std::vector<ZipMember> zip_members(std::string_view archive) {
    Directory directory = find_directory(archive);
    std::vector<ZipMember> members;
    for (std::uint64_t i = 0; i < directory.entries; ++i) {
        const std::string_view entry = part(directory.bytes, 0, kEntrySize);
        if (number(entry, 0, 4) != kEntry) fail("the archive's directory is damaged");
        const std::uint64_t name_size = number(entry, 28, 2), extra_size = number(entry, 30, 2),
                            comment_size = number(entry, 32, 2);
        const std::uint64_t method = number(entry, 10, 2);
        Sizes sizes{number(entry, 24, 4), number(entry, 20, 4), number(entry, 42, 4)};
        read_zip64(part(directory.bytes, kEntrySize + name_size, extra_size), sizes);
        if ((number(entry, 8, 2) & kUnreadableFlags) != 0) fail("a member is encrypted");
        if (method != 0 && method != Z_DEFLATED) fail("a member is packed in an unknown way");
        ZipMember& member = members.emplace_back();
        member.name = part(directory.bytes, kEntrySize, name_size);
        member.is_deflated = method == Z_DEFLATED;
        member.crc32 = static_cast<std::uint32_t>(number(entry, 16, 4));
        member.size = sizes.unpacked;
        member.packed = packed_bytes(archive, sizes, member.name);
        directory.bytes.remove_prefix(part(directory.bytes, 0, kEntrySize + name_size + extra_size + comment_size).size());
    }
    return members;
}

std::vector<unsigned char> unpack(const ZipMember& member) {
    std::vector<unsigned char> bytes;
    if (member.is_deflated) {
        bytes = inflate_all(member);
    } else {
        if (member.packed.size() != member.size) fail("a member's sizes differ");
        bytes.assign(member.packed.begin(), member.packed.end());
    }
    if (crc32_z(0, bytes.data(), bytes.size()) != member.crc32) fail("a member's checksum is wrong");
    return bytes;
}

}  // namespace oce::core
