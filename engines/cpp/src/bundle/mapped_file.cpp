// Reading of regular files through the system's calls, whose error numbers messages need.
#include "bundle/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "bundle/sha256.hpp"

namespace oce::core {
namespace {

[[noreturn]] void fail(int error) {
    throw std::system_error(error, std::generic_category());
}

}  // namespace

// Without O_NONBLOCK, opening a pipe would wait for its writer before its kind could be looked at.
OpenedFile::OpenedFile(const std::filesystem::path& path) : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (descriptor_ < 0) fail(errno);
    struct stat status {};
    const int error = ::fstat(descriptor_, &status) != 0 ? errno : S_ISREG(status.st_mode) ? 0 : EINVAL;
    if (error != 0) {
        ::close(descriptor_);
        fail(error);
    }
    size_ = static_cast<std::size_t>(status.st_size);
}

OpenedFile::~OpenedFile() {
    ::close(descriptor_);
}

std::string_view OpenedFile::read(std::string& buffer, std::size_t most) {
    buffer.resize(most);
    ssize_t count = -1;
    do {
        count = ::read(descriptor_, buffer.data(), most);
    } while (count < 0 && errno == EINTR);
    if (count < 0) fail(errno);
    return {buffer.data(), static_cast<std::size_t>(count)};
}

MappedFile::MappedFile(const std::filesystem::path& path) {
    const OpenedFile file(path);
    if (file.size() == 0) return;  // the system maps no empty files
    void* const address = ::mmap(nullptr, file.size(), PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
    if (address == MAP_FAILED) fail(errno);
    address_ = address;
    size_ = file.size();
}

MappedFile::~MappedFile() {
    if (address_ != nullptr) ::munmap(address_, size_);
}

std::string file_sha256(const std::filesystem::path& path) {
    OpenedFile file(path);
    Sha256 checksum;
    std::string buffer;
    for (;;) {
        const std::string_view piece = file.read(buffer, std::size_t{1} << 20);
        if (piece.empty()) return checksum.hex();
        checksum.add(piece);
    }
}

std::string system_words(int error) {
    return std::generic_category().message(error);
}

}  // namespace oce::core
