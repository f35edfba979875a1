// Places of an ONNX file's weights, read from the protobuf bytes alone (engines/files/onnx_external_data.py).
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace oce::core {

/// One tensor's place in a data file.
struct ExternalData {
    std::string tensor, location;  // location: relative to the ONNX file's folder
    std::int64_t offset = 0;
    std::optional<std::int64_t> length;  // bytes; none: to the end of the file
};

/// All external tensors of an ONNX model's bytes; throws std::invalid_argument where they are no ONNX model.
std::vector<ExternalData> external_data(std::string_view model);

/// The data files of an ONNX file, if one of them is a link to a file outside the ONNX file's folder; otherwise nothing.
/// Libraries refuse such files when they open the graph by its path. Location in the graph to path.
std::map<std::string, std::filesystem::path> data_elsewhere(const std::filesystem::path& graph);

}  // namespace oce::core
