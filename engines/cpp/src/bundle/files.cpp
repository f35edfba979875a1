// Whether a bundle's files are there and are the files that the exporter wrote.
//
// A file may be a link that leads out of the bundle's folder, because every file in the Hugging Face cache is such a link. It is
// accepted where the manifest lists it, where it ends at a regular file, and where that file has the manifest's checksum.
#include "bundle/files.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <system_error>

#include "bundle/bundle_paths.hpp"
#include "bundle/engine_kinds.hpp"
#include "bundle/graph_weights.hpp"
#include "bundle/manifest_paths.hpp"
#include "bundle/mapped_file.hpp"
#include "errors.hpp"

namespace oce::core {
namespace {

using Problem = std::optional<std::string>;

/// The problem of a path at which a regular file of so many bytes must be; without `bytes`, of any size.
Problem path_problem(const std::filesystem::path& path, std::optional<std::int64_t> bytes) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) {
        const int error = errno;
        std::error_code ignored;
        if (error != ENOENT) return "cannot be reached (" + system_words(error) + ")";
        return std::filesystem::is_symlink(path, ignored) ? "is a link to nothing" : "is missing";
    }
    if (!S_ISREG(status.st_mode)) return "is not a regular file";
    if (!bytes || status.st_size == *bytes) return {};
    return "has " + std::to_string(status.st_size) + " bytes instead of " + std::to_string(*bytes);
}

bool runs_graph(const Engine& engine) {
    const EngineKind* const kind = find_kind(engine.kind);
    return kind != nullptr && kind->runs_graph;
}

/// The paths of all ONNX graphs, each once.
std::vector<std::string> graphs_of(const Manifest& manifest) {
    std::vector<std::string> graphs;
    std::set<std::string> seen;
    const auto add = [&](const std::string& path) {
        if (seen.insert(path).second) graphs.push_back(path);
    };
    for (const auto& [name, tower] : manifest.towers) add(tower.graph);
    for (const Engine& engine : manifest.engines) {
        if (runs_graph(engine)) add(engine.file);
    }
    for (const auto& [name, file] : manifest.files) {
        if (name.ends_with(".onnx")) add(name);
    }
    return graphs;
}

/// Files that only engines need: not the towers' graphs, because other engines read them, too.
std::set<std::string> engine_files(const Manifest& manifest) {
    std::set<std::string> built;
    for (const Engine& engine : manifest.engines) {
        built.insert(engine.file);
        if (engine.inspector) built.insert(*engine.inspector);
    }
    for (const auto& [name, tower] : manifest.towers) built.erase(tower.graph);
    std::set<std::string> weights;  // of graphs that are an engine's own
    for (const std::string& path : built) weights.insert(path + ".data");
    built.merge(weights);
    return built;
}

/// Engine files whose checksum is looked at when they are loaded.
std::set<std::string> files_checked_later(const Manifest& manifest, const std::vector<std::string>& graphs) {
    std::set<std::string> files;
    for (const Engine& engine : manifest.engines) {
        if (!runs_graph(engine)) files.insert(engine.file);
    }
    for (const std::string& graph : graphs) files.erase(graph);
    return files;
}

void check_sha256(const std::filesystem::path& folder, const std::string& relative, const std::filesystem::path& path,
                  const std::string& expected) {
    std::string actual;
    try {
        actual = file_sha256(path);
    } catch (const std::system_error& error) {
        throw BundleError("cannot read " + path.string() + ": " + system_words(error.code().value()));
    }
    if (actual != expected) {
        throw BundleError(relative + " in bundle " + folder.string() +
                          " was changed: its sha256 is not the manifest's; copy or export the bundle again");
    }
}

std::set<std::string> listed_files(const std::filesystem::path& folder, const Manifest& manifest) {
    std::set<std::string> listed;
    for (const auto& [name, file] : manifest.files) listed.insert(name);
    if (listed.empty()) {
        throw BundleError("the manifest of " + folder.string() +
                          " lists no files, so none can be checked: export the bundle again");
    }
    for (const std::string& relative : manifest_paths(manifest)) {
        if (listed.contains(relative)) continue;
        throw BundleError(relative + " is used by the manifest of " + folder.string() +
                          " but not listed among its files: export the bundle again");
    }
    return listed;
}

[[noreturn]] void fail_copy(const std::string& relative, const std::string& problem, const std::filesystem::path& bundle) {
    throw BundleError(relative + " " + problem + " in bundle " + bundle.string() + ": copy or export the bundle again");
}

}  // namespace

std::filesystem::path existing_file(const std::filesystem::path& bundle, const std::string& relative) {
    std::filesystem::path path = resolve_path(bundle, relative);
    if (const auto problem = path_problem(path, {})) fail_copy(relative, *problem, bundle);
    return path;
}

void verify_files(const std::filesystem::path& bundle, const Manifest& manifest, bool full) {
    const std::filesystem::path folder = plain_path(bundle);
    const std::set<std::string> listed = listed_files(folder, manifest);
    const std::vector<std::string> graphs = graphs_of(manifest);
    const std::set<std::string> optional = full ? std::set<std::string>{} : engine_files(manifest);
    const std::set<std::string> checked_later = files_checked_later(manifest, graphs);
    std::set<std::string> absent;
    for (const auto& [relative, expected] : manifest.files) {
        const std::filesystem::path path = resolve_path(folder, relative);
        if (const auto problem = path_problem(path, expected.bytes)) {
            if (!optional.contains(relative)) fail_copy(relative, *problem, folder);
            absent.insert(relative);
        } else if (full || (!checked_later.contains(relative) && leads_out(folder, path))) {
            check_sha256(folder, relative, path, expected.sha256);
        }
    }
    for (const std::string& graph : graphs) {
        // An engine's own graph whose weights are missing counts as missing itself.
        if (!absent.contains(graph) && !absent.contains(graph + ".data")) check_external_data(folder, graph, listed);
    }
}

std::optional<std::string> engine_problem(const std::filesystem::path& bundle, const Manifest& manifest, const Engine& engine) {
    const auto listed = [&](const std::string& name) {
        const auto found =
            std::find_if(manifest.files.begin(), manifest.files.end(), [&](const auto& item) { return item.first == name; });
        return found == manifest.files.end() ? std::nullopt : std::optional(found->second.bytes);
    };
    const std::string weights = engine.file + ".data";
    if (const auto problem = path_problem(resolve_path(bundle, engine.file), listed(engine.file)))
        return engine.file + " " + *problem;
    const auto bytes = listed(weights);
    if (!bytes) return {};
    if (const auto problem = path_problem(resolve_path(bundle, weights), bytes)) return weights + " " + *problem;
    return {};
}

}  // namespace oce::core
