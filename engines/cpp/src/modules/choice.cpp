// The order of engines, their reasons, and the opening of the chosen one.
#include "modules/choice.hpp"

#include <algorithm>

#include "bundle/engine_kinds.hpp"
#include "bundle/files.hpp"
#include "errors.hpp"

namespace oce::core {
namespace {

int device_rank(const Engine& engine) {
    if (!engine.target.device) return 1;
    return *engine.target.device == "cpu" ? 2 : 0;
}

std::string joined(const std::vector<std::string>& texts, const char* between) {
    std::string all;
    for (const std::string& text : texts) all += (all.empty() ? "" : between) + text;
    return all;
}

std::vector<std::string> kinds_of(const std::vector<const Engine*>& engines) {
    std::vector<std::string> kinds;
    for (const Engine* engine : engines) {
        if (std::find(kinds.begin(), kinds.end(), engine->kind) == kinds.end()) kinds.push_back(engine->kind);
    }
    return kinds;
}

/// Whether an engine was built for a device that the caller allows.
bool may_be_on(const Engine& engine, const std::string& device) {
    if (device == "auto" || !engine.target.device) return true;
    return (*engine.target.device == "cpu") == (device == "cpu");
}

void log_choice(const std::filesystem::path& bundle, const Engine& chosen, const std::vector<std::string>& passed_over,
                const Options& options) {
    if (options.log == nullptr) return;
    std::string line = "the " + std::string(name_of(chosen.tower)) + " tower of " + bundle.string() + " runs on " + label(chosen);
    if (!passed_over.empty()) line += "; not on " + joined(passed_over, "; ");
    options.log(options.log_user, passed_over.empty() ? OCE_LOG_INFO : OCE_LOG_WARNING, line.c_str());
}

}  // namespace

std::string label(const Engine& engine) {
    return engine.target.device ? engine.kind + " " + *engine.target.device : engine.kind;
}

std::vector<const Engine*> ranked(const Manifest& manifest, TowerName tower) {
    std::vector<const Engine*> engines;
    for (const Engine& engine : manifest.engines) {
        if (engine.tower == tower) engines.push_back(&engine);
    }
    std::stable_sort(engines.begin(), engines.end(), [](const Engine* left, const Engine* right) {
        return std::pair(device_rank(*left), kind_rank(left->kind)) < std::pair(device_rank(*right), kind_rank(right->kind));
    });
    return engines;
}

std::optional<std::string> why_not(const std::filesystem::path& bundle, const Manifest& manifest, const Engine& engine,
                                   const Options& options) {
    if (auto problem = engine_problem(bundle, manifest, engine)) return problem;
    const EngineKind* kind = find_kind(engine.kind);
    if (kind == nullptr) return "this release does not know the engine kind '" + engine.kind + "'; upgrade openclip-engines";
    if (engine.packed || !kind->runs_graph)
        return "the C++ library does not run engines of kind " + engine.kind + ": use the Python runtime";
    const FoundModule found = find_module(engine.kind, options);
    if (found.module == nullptr) return found.reason;
    return module_refusal(*found.module, existing_file(bundle, engine.file), engine, manifest, options);
}

std::unique_ptr<EngineTower> open_tower(const std::filesystem::path& bundle, const Manifest& manifest, TowerName tower,
                                        const Options& options) {
    const std::string name = name_of(tower);
    if (options.device != "auto" && options.device != "cpu" && options.device != "cuda") {
        throw EngineUnavailableError("device '" + options.device + "' is none of auto, cpu, cuda");
    }
    const std::vector<const Engine*> engines = ranked(manifest, tower);
    const std::vector<std::string> kinds = kinds_of(engines);
    if (kinds.empty()) {
        throw EngineUnavailableError(
            "the bundle has no engine for its " + name +
            " tower, for none could be built: load another tower with towers=, or export the bundle again");
    }
    const bool automatic = options.engine == "auto";
    if (!automatic && std::find(kinds.begin(), kinds.end(), options.engine) == kinds.end()) {
        throw EngineUnavailableError("the bundle has no engine '" + options.engine + "' for its " + name + " tower: it has " +
                                     joined(kinds, ", "));
    }
    std::vector<std::string> refused;
    std::vector<std::string> passed_over;
    for (const Engine* engine : engines) {
        if (!automatic && engine->kind != options.engine) continue;
        if (const auto reason = why_not(bundle, manifest, *engine, options)) {
            refused.push_back(label(*engine) + ": " + *reason);
            if (may_be_on(*engine, options.device)) passed_over.push_back(refused.back());
            continue;
        }
        const FoundModule found = find_module(engine->kind, options);
        auto opened = std::make_unique<EngineTower>(*found.module, existing_file(bundle, engine->file), *engine,
                                                    manifest.towers.at(tower), manifest, options);
        log_choice(bundle, *engine, automatic ? passed_over : std::vector<std::string>{}, options);
        return opened;
    }
    throw EngineUnavailableError("no engine of the bundle can run its " + name + " tower here (" + joined(refused, "; ") + ")");
}

}  // namespace oce::core
