// The choice among the engines of a bundle (engines/runtimes/choice.py).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "modules/module.hpp"

namespace oce::core {

/// The engines of a tower, best first: those for a GPU, those for any device, those for the CPU; then by the order of the kinds.
std::vector<const Engine*> ranked(const Manifest& manifest, TowerName tower);

/// The reason why an engine cannot run here, or nothing.
std::optional<std::string> why_not(const std::filesystem::path& bundle, const Manifest& manifest, const Engine& engine,
                                   const Options& options);

/// Choose and open the engine that serves a tower, and log the choice. Throws EngineUnavailableError with the reason of every
/// engine.
std::unique_ptr<EngineTower> open_tower(const std::filesystem::path& bundle, const Manifest& manifest, TowerName tower,
                                        const Options& options);

/// An engine in a sentence: `tensorrt sm80`.
std::string label(const Engine& engine);

}  // namespace oce::core
