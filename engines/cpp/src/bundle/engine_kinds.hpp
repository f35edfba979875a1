// The kinds of engines and their properties (engines/engine_kinds.py); every other file reads this table.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace oce::core {

/// One kind of engine; a new kind is one entry of kEngineKinds.
struct EngineKind {
    std::string_view name;
    bool cpu = false;             // its engines can compute on a CPU
    bool cuda = false;            // its engines can compute on an NVIDIA GPU
    bool runs_graph = false;      // the engine's file is the tower's ONNX graph
    bool any_batch = false;       // the engine takes every batch of one row or more
    bool packs_captions = false;  // its text engines can take captions that are laid end to end
    std::string_view needs = {};  // the library that runs it, for messages
};

/// In the order of preference, other things being equal.
inline constexpr std::array<EngineKind, 5> kEngineKinds{{
    {.name = "tensorrt", .cuda = true, .needs = "TensorRT"},
    {.name = "tensorrt-rtx", .cuda = true, .needs = "TensorRT-RTX"},
    {.name = "openvino", .cpu = true, .runs_graph = true, .any_batch = true, .needs = "OpenVINO"},
    {.name = "onnxruntime", .cpu = true, .cuda = true, .runs_graph = true, .any_batch = true, .needs = "ONNX Runtime"},
    {.name = "aotinductor", .cpu = true, .cuda = true, .any_batch = true, .packs_captions = true, .needs = "PyTorch"},
}};

/// The place of a kind in the table; kinds that this release does not know come last.
constexpr std::size_t kind_rank(std::string_view name) {
    std::size_t rank = 0;
    while (rank < kEngineKinds.size() && kEngineKinds[rank].name != name) ++rank;
    return rank;
}

/// A kind by name; null where this release does not know it.
constexpr const EngineKind* find_kind(std::string_view name) {
    const std::size_t rank = kind_rank(name);
    return rank < kEngineKinds.size() ? &kEngineKinds[rank] : nullptr;
}

}  // namespace oce::core
