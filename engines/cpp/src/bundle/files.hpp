// Whether a bundle's files are there and are the files that the exporter wrote (engines/bundle_files.py).
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "bundle/manifest.hpp"

namespace oce::core {

/// Check every file's presence and size; with `full`, or where the file is a link out of the folder, its checksum too, and that all
/// external weights of ONNX graphs lie in listed files. Throws BundleError as engines.bundle_files.verify_files does.
void verify_files(const std::filesystem::path& bundle, const Manifest& manifest, bool full);

/// The reason why an engine's files cannot be opened ("engines/x/image.onnx is missing"), or nothing.
std::optional<std::string> engine_problem(const std::filesystem::path& bundle, const Manifest& manifest, const Engine& engine);

/// The path of a regular file of the bundle. Throws BundleError if the path leads out of the folder or no regular file is there.
std::filesystem::path existing_file(const std::filesystem::path& bundle, const std::string& relative);

/// The file path of a manifest's path; throws BundleError for a path that FORMAT.md's rules refuse.
std::filesystem::path resolve_path(const std::filesystem::path& bundle, const std::string& relative);

}  // namespace oce::core
