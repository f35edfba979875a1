// Resolution of the paths in a bundle's manifest (engines/files/bundle_paths.py); files.hpp declares resolve_path.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace oce::core {

/// The parts of a path between its slashes, without empty ones and those that are a dot.
std::vector<std::string_view> path_parts(std::string_view path);

/// A folder's path in the form in which Python shows it: no doubled slashes, no parts that are a dot, no slash at the end.
std::filesystem::path plain_path(const std::filesystem::path& path);

/// The manifest's path of a file beside another: `engines/x/image.onnx` and `image.onnx.data` to `engines/x/image.onnx.data`.
std::string path_beside(std::string_view file, std::string_view name);

/// Whether a path of the bundle is, or lies behind, a link to a file outside the bundle's folder.
bool leads_out(const std::filesystem::path& bundle, const std::filesystem::path& path);

}  // namespace oce::core
