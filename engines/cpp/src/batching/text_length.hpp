// The number of ids that the text tower needs of each row, and batches of rows with little padding (engines/inputs/text_length.py).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bundle/manifest.hpp"

namespace oce::core {

/// The number of ids that one row needs, between length.min and length.max. ids: length.max ids.
int needed_length(std::span<const std::int32_t> ids, const TextLength& length, std::int32_t pad_id);

/// Row indices of each batch: sorted by length, at most `max_batch` rows, cut where rows would be padded by more than a quarter.
std::vector<std::vector<std::size_t>> plan_batches(std::span<const int> lengths, std::size_t max_batch);

}  // namespace oce::core
