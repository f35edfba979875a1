// Reading an image file, with an error for each reason why it cannot be read.
#include "image/read_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "errors.hpp"

namespace oce::core {
namespace {

// PNG's 16-bit RGBA, which has the most bytes a pixel; and profiles, thumbnails and other data beside the pixels.
constexpr std::int64_t kBytesOfPixel = 8;
constexpr std::int64_t kOtherBytes = std::int64_t{1} << 28;

class OpenFile {
public:
    explicit OpenFile(int descriptor) : descriptor_(descriptor) {}
    ~OpenFile() {
        if (descriptor_ >= 0) close(descriptor_);
    }
    OpenFile(const OpenFile&) = delete;
    OpenFile& operator=(const OpenFile&) = delete;
    [[nodiscard]] int descriptor() const { return descriptor_; }

private:
    int descriptor_;
};

[[noreturn]] void cannot_open(const std::string& path, int error) {
    if (error == ENOENT) throw ImageError(path + ": no such file; check the path");
    throw ImageError(path + ": cannot be opened (" + std::generic_category().message(error) +
                     "); check that it is a readable file");
}

void check_kind(const std::string& path, const struct stat& status) {
    if (S_ISDIR(status.st_mode)) cannot_open(path, EISDIR);
    if (S_ISREG(status.st_mode)) return;
    throw ImageError(path + ": is not a regular file; save what it gives to a file, or pass its bytes");
}

std::string read_all(const std::string& path, int descriptor, std::size_t size) {
    std::string content(size, '\0');
    std::size_t done = 0;
    while (done < content.size()) {
        const ssize_t count = read(descriptor, content.data() + done, content.size() - done);
        if (count == 0) break;
        if (count < 0 && errno != EINTR) cannot_open(path, errno);
        if (count > 0) done += static_cast<std::size_t>(count);
    }
    content.resize(done);
    return content;
}

}  // namespace

std::string read_image_file(const std::string& path, std::int64_t max_pixels) {
    if (path.find('\0') != std::string::npos) {
        throw ImageError(path.substr(0, path.find('\0')) +
                         ": cannot be opened (embedded null byte); check that it is a readable file");
    }
    struct stat status {};
    // Opening a pipe without a writer would wait for ever, and opening a device may do something; so the kind is checked before,
    // too.
    if (stat(path.c_str(), &status) != 0) cannot_open(path, errno);
    check_kind(path, status);
    const OpenFile file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.descriptor() < 0 || fstat(file.descriptor(), &status) != 0) cannot_open(path, errno);
    check_kind(path, status);
    const auto size = static_cast<std::int64_t>(status.st_size);
    if (size - kOtherBytes > 0 && (size - kOtherBytes) / kBytesOfPixel > max_pixels) {
        throw ImageError(path + ": the file has " + std::to_string(size) + " bytes, more than a picture of " +
                         std::to_string(max_pixels) + " pixels needs; save the image again");
    }
    std::string content = read_all(path, file.descriptor(), static_cast<std::size_t>(size));
    if (content.empty()) throw ImageError(path + ": the file is empty (0 bytes); fetch or save it again");
    return content;
}

}  // namespace oce::core
