// Regular files, mapped read-only or read in pieces.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace oce::core {

/// A regular file's descriptor. Throws std::system_error where it cannot be opened or is another kind of file.
class OpenedFile {
public:
    explicit OpenedFile(const std::filesystem::path& path);
    ~OpenedFile();
    OpenedFile(const OpenedFile&) = delete;
    OpenedFile& operator=(const OpenedFile&) = delete;

    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] int descriptor() const { return descriptor_; }
    /// The next bytes, at most `most`; empty at the end. Throws std::system_error.
    std::string_view read(std::string& buffer, std::size_t most);

private:
    int descriptor_;
    std::size_t size_ = 0;
};

/// A file's bytes in memory, of which the system reads those that are looked at. Throws std::system_error.
class MappedFile {
public:
    explicit MappedFile(const std::filesystem::path& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    [[nodiscard]] std::string_view bytes() const { return {static_cast<const char*>(address_), size_}; }

private:
    void* address_ = nullptr;
    std::size_t size_ = 0;
};

/// A file's sha256 in hexadecimal. Throws std::system_error.
std::string file_sha256(const std::filesystem::path& path);

/// The system's words for an error number, as Python's OSError.strerror.
std::string system_words(int error);

}  // namespace oce::core
