// The number of cores that this process may use, from its affinity and its container's CPU quota (engines/process/cores.py).
#pragma once

#include <filesystem>
#include <optional>

namespace oce::core {

/// Cores that this process may use at a time, at least 1.
int usable_cores();

/// Threads for one run of an engine where this process may not use the whole machine; 0 where it may, and the engine's library
/// decides.
int engine_threads();

/// The CPU quota of this process's control groups, such as 1.5; nothing where there is no limit. `root`: where proc and sys are
/// mounted.
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

}  // namespace oce::core
