// The check of an ONNX graph's data files, and the search for those that lie behind links.
#include "bundle/graph_weights.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <map>
#include <stdexcept>
#include <system_error>

#include "bundle/bundle_paths.hpp"
#include "bundle/files.hpp"
#include "bundle/mapped_file.hpp"
#include "bundle/onnx_external_data.hpp"
#include "bundle/python_text.hpp"
#include "errors.hpp"

namespace oce::core {
namespace {

std::vector<ExternalData> read_external_data(const std::filesystem::path& path) {
    try {
        const MappedFile file(path);
        if (file.bytes().empty()) throw BundleError(path.string() + " is empty");
        return external_data(file.bytes());
    } catch (const std::system_error& error) {
        throw BundleError("cannot read " + path.string() + ": " + system_words(error.code().value()));
    } catch (const std::invalid_argument& error) {
        throw BundleError(path.string() + " is not an ONNX file, or is damaged: " + error.what());
    }
}

/// The path of a data file in the bundle, from its location in a graph.
std::filesystem::path data_path(const std::filesystem::path& folder, const std::string& graph, const std::string& location) {
    try {
        // No exporter writes a name with an asterisk, but ONNX Runtime and OpenVINO read one such name as an address in their own
        // process's memory.
        if (location.find('*') == location.npos && !location.starts_with('/')) {
            return resolve_path(folder, path_beside(graph, location));
        }
    } catch (const BundleError&) {  // answered below, like the other locations
    }
    throw BundleError(graph + " keeps weights at " + python_repr(shortened(location, 100)) + ", outside the bundle " +
                      folder.string() + ": export the bundle again");
}

std::int64_t data_size(const std::filesystem::path& folder, const std::string& graph, const std::string& location,
                       const std::set<std::string>& listed) {
    const std::filesystem::path path = data_path(folder, graph, location);
    const std::string relative = path_beside(graph, location);
    if (!listed.contains(relative)) {
        throw BundleError(graph + " keeps weights in " + relative + ", which the manifest of " + folder.string() +
                          " does not list among its files: export the bundle again");
    }
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
        throw BundleError(graph + " needs " + relative + ", which is missing in bundle " + folder.string() +
                          ": copy or export the bundle again");
    }
    return status.st_size;
}

/// The end of a tensor's bytes, or nothing where the numbers make no sense.
std::optional<std::int64_t> end_of(const ExternalData& item) {
    const std::int64_t length = item.length.value_or(0);
    if (item.offset < 0 || length < 0 || item.offset > std::numeric_limits<std::int64_t>::max() - length) return {};
    return item.offset + length;
}

/// The same in words: two large numbers have a sum of 64 bits without a sign.
std::string shown_end(const ExternalData& item) {
    const auto sum = static_cast<std::uint64_t>(item.offset) + static_cast<std::uint64_t>(item.length.value_or(0));
    const bool is_positive = item.offset >= 0 && item.length.value_or(0) >= 0;
    return is_positive ? std::to_string(sum) : std::to_string(static_cast<std::int64_t>(sum));
}

}  // namespace

void check_external_data(const std::filesystem::path& folder, const std::string& graph, const std::set<std::string>& listed) {
    std::map<std::string, std::int64_t> sizes;
    for (const ExternalData& item : read_external_data(resolve_path(folder, graph))) {
        auto size = sizes.find(item.location);
        if (size == sizes.end()) size = sizes.emplace(item.location, data_size(folder, graph, item.location, listed)).first;
        const auto end = end_of(item);
        if (end && *end <= size->second) continue;
        throw BundleError(path_beside(graph, item.location) + " has " + std::to_string(size->second) + " bytes, but " + graph +
                          " keeps tensor " + item.tensor + " at bytes " + std::to_string(item.offset) + " to " + shown_end(item) +
                          ": the file was cut; copy or export the bundle again");
    }
}

std::map<std::string, std::filesystem::path> data_elsewhere(const std::filesystem::path& graph) {
    std::map<std::string, std::filesystem::path> files;
    const std::filesystem::path folder = graph.parent_path();
    for (const ExternalData& item : read_external_data(graph)) files.emplace(item.location, folder / item.location);
    const bool elsewhere =
        std::any_of(files.begin(), files.end(), [&](const auto& file) { return leads_out(plain_path(folder), file.second); });
    if (!elsewhere) files.clear();
    return files;
}

}  // namespace oce::core
