// Whether an ONNX graph's weights lie in files of its bundle; onnx_external_data.hpp reads the graph.
#pragma once

#include <filesystem>
#include <set>
#include <string>

namespace oce::core {

/// Check that the weights of an ONNX file lie in files of the bundle, and inside them.
///
/// graph: path of the ONNX file in the bundle. listed: paths of the files that the manifest lists.
/// Throws BundleError where a location leaves the folder, or a data file is not listed, is missing or too short.
void check_external_data(const std::filesystem::path& folder, const std::string& graph, const std::set<std::string>& listed);

}  // namespace oce::core
