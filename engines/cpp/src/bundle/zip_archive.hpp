// Members of a zip archive in memory: stored or deflated, with or without the fields of zip64.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace oce::core {

/// One file of an archive. `packed` is a part of the archive's memory.
struct ZipMember {
    std::string name;
    bool is_deflated = false;
    std::uint32_t crc32 = 0;
    std::uint64_t size = 0;  // bytes once unpacked
    std::string_view packed;
};

/// All members, in the order of the archive's directory. Throws std::invalid_argument where the archive is damaged, encrypted or
/// packed in another way.
std::vector<ZipMember> zip_members(std::string_view archive);

/// A member's bytes. Throws std::invalid_argument where they are damaged, or claim more bytes than they can hold.
std::vector<unsigned char> unpack(const ZipMember& member);

}  // namespace oce::core
