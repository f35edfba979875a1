// The reading of manifest.json: the file, its version, its schema, its ranges, its contradictions and its paths.
#include "bundle/manifest.hpp"

#include <sys/stat.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "bundle/bundle_paths.hpp"
#include "bundle/consistency.hpp"
#include "bundle/files.hpp"
#include "bundle/json_values.hpp"
#include "bundle/manifest_paths.hpp"
#include "bundle/manifest_values.hpp"
#include "bundle/mapped_file.hpp"
#include "bundle/python_text.hpp"
#include "bundle/ranges.hpp"
#include "bundle/schema_table.hpp"
#include "errors.hpp"

namespace oce::core {
namespace {

// A thousand times the usual size; there is a limit because a reader holds the whole manifest in memory.
constexpr std::size_t kMaxManifestBytes = std::size_t{16} << 20;

constexpr const char* kCopyAgain = ": copy or export the bundle again";

void check_folder(const std::filesystem::path& folder) {
    struct stat status {};
    const int error = ::stat(folder.c_str(), &status) == 0 ? 0 : errno;
    const std::string name = "bundle " + folder.string();
    if (error == ENOENT || error == ENOTDIR) throw BundleError(name + " is not there");
    if (error != 0) throw BundleError(name + " cannot be reached (" + system_words(error) + ")");
    if (!S_ISDIR(status.st_mode)) throw BundleError(name + " is a file, not a folder of a bundle");
}

/// A file's content. It may grow while it is read, so that its size is looked at once more.
std::string content(const std::filesystem::path& path, std::size_t bytes) {
    OpenedFile file(path);
    std::string whole;
    std::string buffer;
    for (;;) {
        const std::string_view piece = file.read(buffer, std::size_t{1} << 16);
        if (piece.empty() || whole.size() > bytes) return whole;
        whole += piece;
    }
}

std::string manifest_data(const std::filesystem::path& folder) {
    const std::filesystem::path path = plain_path(folder / kManifestName);
    struct stat status {};
    const int error = ::stat(path.c_str(), &status) == 0 ? 0 : errno;
    if (error == ENOENT) throw BundleError(folder.string() + " is not a bundle: it has no " + kManifestName);
    if (error != 0) throw BundleError("cannot read " + path.string() + ": " + system_words(error));
    if (!S_ISREG(status.st_mode)) throw BundleError(path.string() + " is not a regular file" + kCopyAgain);
    if (static_cast<std::size_t>(status.st_size) > kMaxManifestBytes) {
        throw BundleError(path.string() + " has " + std::to_string(status.st_size) + " bytes, more than the " +
                          std::to_string(kMaxManifestBytes) + " of any manifest" + kCopyAgain);
    }
    try {
        return content(path, kMaxManifestBytes);
    } catch (const std::system_error& failure) {
        throw BundleError("cannot read " + path.string() + ": " + system_words(failure.code().value()));
    }
}

/// A message with its middle cut out where it is long, because it may quote a value of any length; its end names the place.
std::string without_middle(std::string_view message) {
    if (count_characters(message) <= 300) return std::string(message);
    return std::string(first_characters(message, 150)) + "…" + std::string(last_characters(message, 120));
}

/// A positive number in decimal digits; the standard library writes 64 bits at most.
std::string digits_of(WideInteger number) {
    std::string digits;
    for (; number > 0; number /= 10) digits.insert(digits.begin(), static_cast<char>('0' + static_cast<int>(number % 10)));
    return digits;
}

void check_version(const std::filesystem::path& folder, std::string_view data) {
    const auto version = read_json(data, kVersionType)["schema_version"].as<WideInteger>();
    if (version <= kSchemaVersion) return;
    throw SchemaVersionError("bundle " + folder.string() + " has schema version " + digits_of(version) +
                             ", this release reads up to " + std::to_string(kSchemaVersion) +
                             ": upgrade openclip-engines, or export the bundle again with this release");
}

/// The JSON in the schema, or the manifest's first problem.
Value checked_json(const std::filesystem::path& folder, std::string_view data) {
    try {
        check_version(folder, data);
        return read_json(data, kManifestType);
    } catch (const std::invalid_argument& error) {
        throw BundleError(plain_path(folder / kManifestName).string() +
                          " is damaged or was edited: " + without_middle(error.what()));
    }
}

[[noreturn]] void fail_edited(const std::filesystem::path& folder, const std::string& problem) {
    throw BundleError(plain_path(folder / kManifestName).string() + " was edited, or is wrong: " + problem +
                      "; copy or export the bundle again");
}

}  // namespace

Manifest read_manifest(const std::filesystem::path& bundle) {
    const std::filesystem::path folder = plain_path(bundle);
    check_folder(folder);
    const std::string data = manifest_data(folder);
    const Value value = checked_json(folder, data);
    if (const auto problem = out_of_range(value)) fail_edited(folder, *problem);
    Manifest manifest = manifest_of(value);
    if (const auto problem = contradiction(manifest, value)) fail_edited(folder, *problem);
    for (const std::string& relative : manifest_paths(manifest)) resolve_path(folder, relative);
    for (const auto& [relative, file] : manifest.files) resolve_path(folder, relative);
    return manifest;
}

std::vector<std::string> manifest_paths(const Manifest& manifest) {
    std::vector<std::string> paths{manifest.reference};
    if (manifest.tokenizer) paths.push_back(manifest.tokenizer->file);
    for (const auto& [name, tower] : manifest.towers) paths.push_back(tower.graph);
    for (const Engine& engine : manifest.engines) {
        paths.push_back(engine.file);
        if (engine.inspector) paths.push_back(*engine.inspector);
    }
    return paths;
}

}  // namespace oce::core
