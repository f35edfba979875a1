// Engine modules: shared objects that are opened at run time, checked, and never closed.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle/manifest.hpp"
#include "openclip_engines/plugin.h"

namespace oce::core {

/// The caller's options of oce_clip_open, with their defaults filled in.
struct Options {
    std::string engine = "auto", device = "auto";
    bool image = true, text = true;  // towers to open; those that the bundle lacks are an error where they were named
    bool towers_named = false;
    int workers = 0;
    std::int64_t max_pixels = 0;
    int threads = 0, device_id = 0;
    std::int64_t cuda_memory_limit = 0;
    bool allow_cpu_nodes = false;
    std::optional<std::string> module_folder, engine_library;
    oce_log_function log = nullptr;
    void* log_user = nullptr;
    bool fast_decode = false, plain_files = false;
};

/// A module, or the reason why there is none for a kind of engine.
struct FoundModule {
    const oce_module* module = nullptr;
    std::string reason;
};

/// Find, open and check the module for a kind of engine.
FoundModule find_module(const std::string& kind, const Options& options);

/// An opened tower of a module.
class EngineTower {
public:
    /// Throws EngineUnavailableError or EngineError.
    EngineTower(const oce_module& module, const std::filesystem::path& graph, const Engine& engine, const Tower& tower,
                const Manifest& manifest, const Options& options);
    ~EngineTower();
    EngineTower(const EngineTower&) = delete;
    EngineTower& operator=(const EngineTower&) = delete;

    /// Embed rows; `length` is the number of ids in a row of text, and 0 for images. Throws EngineError.
    void run(const void* input, std::int64_t rows, std::int64_t length, float* embeds) const;

    [[nodiscard]] std::string description() const { return module_.description(engine_); }
    [[nodiscard]] const BatchProfile& batch() const { return batch_; }

private:
    const oce_module& module_;
    oce_engine* engine_ = nullptr;
    BatchProfile batch_;
};

/// The reason why a module's engine cannot run here, or nothing.
std::optional<std::string> module_refusal(const oce_module& module, const std::filesystem::path& graph, const Engine& engine,
                                          const Manifest& manifest, const Options& options);

}  // namespace oce::core
