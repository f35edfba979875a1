// Runs of any number of rows in an engine that takes only some batch sizes (engines/runtimes/batches.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "modules/module.hpp"

namespace oce::core {

/// Rows per run where the engine sets no limit: with more rows, throughput on the CPU does not grow, but memory does.
inline constexpr std::size_t kImageBatch = 32;
inline constexpr std::size_t kTextBatch = 64;

/// The number of rows in one run: the profile's largest batch, or `usual` where it sets no limit.
std::size_t batch_size(const BatchProfile& profile, std::size_t usual);

/// Embed rows of `row_bytes` bytes each, in runs of `batch_size`; a rest that is smaller than the smallest batch is filled up.
void run_rows(const EngineTower& tower, const void* rows, std::size_t count, std::size_t row_bytes, std::size_t length,
              float* embeds, std::size_t embed_dim, std::size_t usual);

/// Embed ids (count, length.max), each row cut to about as many ids as the tower needs.
void run_ids(const EngineTower& tower, const std::int32_t* ids, std::size_t count, const TextLength& length, std::int32_t pad_id,
             float* embeds, std::size_t embed_dim, std::size_t usual);

/// Throw an EngineError where an embedding is not finite.
void check_finite(std::span<const float> embeds, std::size_t embed_dim, const std::string& tower, const std::string& precision);

}  // namespace oce::core
