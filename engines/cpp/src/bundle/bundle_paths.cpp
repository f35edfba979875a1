// Resolution of the paths in a bundle's manifest, and whether a link leads out of the bundle.
#include "bundle/bundle_paths.hpp"

#include <algorithm>
#include <system_error>

#include "bundle/files.hpp"
#include "bundle/python_text.hpp"
#include "errors.hpp"

namespace oce::core {
namespace {

// Limits of the usual file systems: bytes of one name, and of a path inside the bundle.
constexpr std::size_t kMaxNameBytes = 255;
constexpr std::size_t kMaxPathBytes = 1024;
constexpr std::size_t kShownCharacters = 100;

bool is_forbidden(char character) {
    return static_cast<unsigned char>(character) < ' ' || character == '\\' || character == ':';
}

bool is_plain(std::string_view relative) {
    if (relative.starts_with('/') || !is_utf8(relative)) return false;
    if (std::any_of(relative.begin(), relative.end(), is_forbidden)) return false;
    const std::vector<std::string_view> parts = path_parts(relative);
    std::size_t bytes = parts.size();
    for (const std::string_view part : parts) {
        if (part == ".." || part.size() > kMaxNameBytes) return false;
        bytes += part.size();
    }
    return !parts.empty() && bytes <= kMaxPathBytes;
}

std::string joined(const std::vector<std::string_view>& parts) {
    std::string path;
    for (const std::string_view part : parts) path.append(path.empty() ? "" : "/").append(part);
    return path;
}

}  // namespace

std::vector<std::string_view> path_parts(std::string_view path) {
    std::vector<std::string_view> parts;
    while (!path.empty()) {
        const std::size_t slash = std::min(path.find('/'), path.size());
        const std::string_view part = path.substr(0, slash);
        if (!part.empty() && part != ".") parts.push_back(part);
        path.remove_prefix(std::min(slash + 1, path.size()));
    }
    return parts;
}

std::filesystem::path plain_path(const std::filesystem::path& path) {
    const std::string& text = path.native();
    // POSIX gives exactly two slashes at the beginning a meaning of their own.
    const std::string root = text.starts_with("//") && !text.starts_with("///") ? "//" : text.starts_with('/') ? "/" : "";
    const std::string plain = root + joined(path_parts(text));
    return plain.empty() ? "." : plain;
}

std::string path_beside(std::string_view file, std::string_view name) {
    std::vector<std::string_view> parts = path_parts(file);
    if (!parts.empty()) parts.pop_back();
    for (const std::string_view part : path_parts(name)) parts.push_back(part);
    return parts.empty() ? "." : joined(parts);
}

std::filesystem::path resolve_path(const std::filesystem::path& bundle, const std::string& relative) {
    const std::filesystem::path folder = plain_path(bundle);
    if (!is_plain(relative)) {
        throw BundleError("path " + python_repr(shortened(relative, kShownCharacters)) + " in the manifest of " + folder.string() +
                          " does not name a file inside the bundle");
    }
    return plain_path(folder / joined(path_parts(relative)));
}

bool leads_out(const std::filesystem::path& bundle, const std::filesystem::path& path) {
    std::error_code error;
    const std::filesystem::path folder = std::filesystem::weakly_canonical(bundle, error);
    if (error) return true;  // the caller then checks more, not less
    const std::filesystem::path file = std::filesystem::weakly_canonical(path, error);
    if (error) return true;
    return std::mismatch(folder.begin(), folder.end(), file.begin(), file.end()).first != folder.end();
}

}  // namespace oce::core
