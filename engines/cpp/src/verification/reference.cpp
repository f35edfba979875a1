// The reference file, and the reports as a whole.
#include <fstream>
#include <iterator>
#include <set>

#include "bundle/files.hpp"
#include "errors.hpp"
#include "modules/choice.hpp"
#include "verification/comparisons.hpp"
#include "verification/report.hpp"

namespace oce::core {
namespace {

using Json = nlohmann::json;

std::string content_of(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw BundleError("cannot read " + path.string());
    return {std::istreambuf_iterator<char>(file), {}};
}

std::string text_of(const Json& report) {
    return report.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::vector<std::string> kinds_to_verify(const Manifest& manifest, const std::string& engine) {
    if (engine != "all") return {engine};
    std::vector<std::string> kinds;
    std::set<std::string> seen;
    for (const Engine& item : manifest.engines) {
        if (seen.insert(item.kind).second) kinds.push_back(item.kind);
    }
    return kinds;
}

}  // namespace

Arrays read_reference(const std::filesystem::path& bundle, const Manifest& manifest) {
    const std::filesystem::path path = existing_file(bundle, manifest.reference);
    try {
        return read_npz(content_of(path));
    } catch (const std::invalid_argument& error) {
        throw BundleError(path.string() + " is missing or damaged (" + error.what() + "): copy or export the bundle again");
    }
}

const NpyArray& array_of(const Arrays& arrays, const std::string& name, const std::string& dtype, std::size_t rank) {
    const auto found = arrays.find(name);
    if (found == arrays.end()) throw std::invalid_argument(name + " is missing");
    if (found->second.dtype != dtype || found->second.shape.size() != rank) {
        throw std::invalid_argument(name + " is " + found->second.dtype + " of " + std::to_string(found->second.shape.size()) +
                                    " dimensions, not " + dtype + " of " + std::to_string(rank));
    }
    return found->second;
}

std::string inspect_json(const std::filesystem::path& bundle, const Options& options) {
    const Manifest manifest = read_manifest(bundle);
    verify_files(bundle, manifest, false);
    Json report = Json::parse(content_of(bundle / kManifestName));
    const Json entries = report["engines"];
    Json engines = Json::array();
    for (const auto& [tower, unused] : manifest.towers) {
        for (const Engine* engine : ranked(manifest, tower)) {
            Json entry = entries[static_cast<std::size_t>(engine - manifest.engines.data())];
            const auto reason = why_not(bundle, manifest, *engine, options);
            entry["runs_here"] = !reason;
            entry["why_not"] = reason ? Json(*reason) : Json(nullptr);
            engines.push_back(std::move(entry));
        }
    }
    report["engines"] = std::move(engines);
    return text_of(report);
}

std::string verify_json(const std::filesystem::path& bundle, const Options& options) {
    const Manifest manifest = read_manifest(bundle);
    verify_files(bundle, manifest, true);
    if (manifest.parity.empty()) {
        throw BundleError("the manifest of " + bundle.string() + " has no parity limits: export the bundle again");
    }
    const Arrays arrays = read_reference(bundle, manifest);
    Json report;
    try {
        bool passed = true;
        report["parity"] = Json::array();
        report["towers_without_engine"] = Json::object();
        for (const std::string& kind : kinds_to_verify(manifest, options.engine)) {
            Options of_kind = options;
            of_kind.engine = kind;
            Json row = compare_embeddings(bundle, manifest, arrays, of_kind);
            passed = passed && row["passed"].get<bool>();
            for (const auto& [tower, unused] : manifest.towers) {
                if (!row["towers"].contains(name_of(tower)))
                    report["towers_without_engine"][row["engine"].get<std::string>()].push_back(name_of(tower));
            }
            report["parity"].push_back(std::move(row));
        }
        report["pixels"] = compare_pixels(manifest, arrays);
        report["ids"] = compare_ids(bundle, manifest, arrays);
        for (const char* part : {"pixels", "ids"})
            passed = passed && (report[part].is_null() || report[part]["passed"].get<bool>());
        report["passed"] = passed;
    } catch (const std::invalid_argument& error) {
        throw BundleError((bundle / manifest.reference).string() + " is missing or damaged (" + error.what() +
                          "): copy or export the bundle again");
    }
    return text_of(report);
}

}  // namespace oce::core
