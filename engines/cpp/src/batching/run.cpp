// Runs in batches: splits, fills, cuts, and the check of the results.
#include "batching/run.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "batching/text_length.hpp"
#include "errors.hpp"

namespace oce::core {
namespace {

/// A run of fewer rows than the engine's smallest batch: filled up with the last row, and the surplus is dropped.
void run_filled(const EngineTower& tower, const std::byte* rows, std::size_t count, std::size_t row_bytes, std::size_t length,
                float* embeds, std::size_t embed_dim, std::size_t least) {
    std::vector<std::byte> filled(least * row_bytes);
    std::memcpy(filled.data(), rows, count * row_bytes);
    for (std::size_t row = count; row < least; ++row) {
        std::memcpy(&filled[row * row_bytes], rows + (count - 1) * row_bytes, row_bytes);
    }
    std::vector<float> all(least * embed_dim);
    tower.run(filled.data(), static_cast<std::int64_t>(least), static_cast<std::int64_t>(length), all.data());
    std::copy_n(all.begin(), count * embed_dim, embeds);
}

}  // namespace

std::size_t batch_size(const BatchProfile& profile, std::size_t usual) {
    return profile.max ? static_cast<std::size_t>(*profile.max) : std::max(static_cast<std::size_t>(profile.min), usual);
}

void run_rows(const EngineTower& tower, const void* rows, std::size_t count, std::size_t row_bytes, std::size_t length,
              float* embeds, std::size_t embed_dim, std::size_t usual) {
    const std::size_t size = batch_size(tower.batch(), usual);
    const auto least = static_cast<std::size_t>(tower.batch().min);
    const auto* bytes = static_cast<const std::byte*>(rows);
    for (std::size_t start = 0; start < count; start += size) {
        const std::size_t part = std::min(size, count - start);
        const std::byte* first = bytes + start * row_bytes;
        float* out = embeds + start * embed_dim;
        if (part < least) {
            run_filled(tower, first, part, row_bytes, length, out, embed_dim, least);
        } else {
            tower.run(first, static_cast<std::int64_t>(part), static_cast<std::int64_t>(length), out);
        }
    }
}

void run_ids(const EngineTower& tower, const std::int32_t* ids, std::size_t count, const TextLength& length, std::int32_t pad_id,
             float* embeds, std::size_t embed_dim, std::size_t usual) {
    const auto width = static_cast<std::size_t>(length.max);
    std::vector<int> lengths(count);
    for (std::size_t row = 0; row < count; ++row) lengths[row] = needed_length({ids + row * width, width}, length, pad_id);
    const std::size_t size = batch_size(tower.batch(), usual);
    std::vector<std::int32_t> cut;
    std::vector<float> results;
    for (const std::vector<std::size_t>& rows : plan_batches(lengths, size)) {
        const auto longest = static_cast<std::size_t>(lengths[rows.back()]);
        cut.resize(rows.size() * longest);
        results.resize(rows.size() * embed_dim);
        for (std::size_t row = 0; row < rows.size(); ++row) std::copy_n(ids + rows[row] * width, longest, &cut[row * longest]);
        run_rows(tower, cut.data(), rows.size(), longest * sizeof(std::int32_t), longest, results.data(), embed_dim, size);
        for (std::size_t row = 0; row < rows.size(); ++row) {
            std::copy_n(&results[row * embed_dim], embed_dim, embeds + rows[row] * embed_dim);
        }
    }
}

void check_finite(std::span<const float> embeds, std::size_t embed_dim, const std::string& tower, const std::string& precision) {
    const std::size_t count = embeds.size() / embed_dim;
    std::size_t wrong = 0;
    std::size_t first = count;
    for (std::size_t row = 0; row < count; ++row) {
        const auto values = embeds.subspan(row * embed_dim, embed_dim);
        if (std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) continue;
        first = std::min(first, row);
        ++wrong;
    }
    if (wrong == 0) return;
    const std::string remedy = precision == "fp32" ? "run `python -m engines verify`" : "serve an fp32 bundle of this model";
    throw EngineError("the " + precision + " " + tower + " tower gave NaN or infinity for " + std::to_string(wrong) + " of " +
                      std::to_string(count) + " inputs, the first at index " + std::to_string(first) + ": " + remedy);
}

}  // namespace oce::core
