// Lengths of rows of ids, and batches sorted by length.
#include "batching/text_length.hpp"

#include <algorithm>
#include <numeric>

namespace oce::core {

int needed_length(std::span<const std::int32_t> ids, const TextLength& length, std::int32_t pad_id) {
    const int width = static_cast<int>(ids.size());
    const int most = std::min(length.max, width);
    if (length.keep == Keep::fixed) return most;
    int used = 0;
    if (length.keep == Keep::end) {
        used = static_cast<int>(std::max_element(ids.begin(), ids.end()) - ids.begin()) + 1;
    } else {
        used = width;
        while (used > 0 && ids[static_cast<std::size_t>(used) - 1] == pad_id) --used;
    }
    return std::min(std::max(used + length.extra, length.min), most);
}

std::vector<std::vector<std::size_t>> plan_batches(std::span<const int> lengths, std::size_t max_batch) {
    std::vector<std::size_t> order(lengths.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t left, std::size_t right) { return lengths[left] < lengths[right]; });
    std::vector<std::vector<std::size_t>> batches;
    for (std::size_t start = 0; start < order.size();) {
        // The batch takes rows up to a quarter longer than its shortest row, or up to 4 ids longer where that is more.
        const int shortest = lengths[order[start]];
        const int longest = std::max(static_cast<int>(shortest * 1.25), shortest + 4);
        std::size_t end = start;
        while (end < order.size() && end - start < max_batch && lengths[order[end]] <= longest) ++end;
        batches.emplace_back(order.begin() + static_cast<std::ptrdiff_t>(start), order.begin() + static_cast<std::ptrdiff_t>(end));
        start = end;
    }
    return batches;
}

}  // namespace oce::core
