// A tokenizer.json with byte-level BPE, as the exporter writes it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "text/byte_pairs.hpp"
#include "text/split_pattern.hpp"

namespace oce::core {

struct TokenizerFile {
    SplitPattern words;
    BytePairs pieces;
    std::vector<std::int32_t> start, end;  // ids before and behind every text
    std::int32_t pad_id = 0;
    std::optional<std::int64_t> max_length, padded_length;  // nothing where the file does not truncate or pad to a number
};

/// Throws BundleError where the file is missing or damaged, and EngineUnavailableError for what this release does not have.
TokenizerFile read_tokenizer_file(const std::filesystem::path& file);

}  // namespace oce::core
