// Conversion of texts to token ids: open_clip's cleaning, and the rest by the bundle's tokenizer.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

#include "bundle/manifest.hpp"

namespace oce::core {

/// A bundle's tokenizer: its ids equal those of engines.inputs.tokenizer.TextTokenizer for every text. Threads may share one.
class TextTokenizer {
public:
    /// Throws BundleError where the file is missing, damaged or does not fit `config`, and EngineUnavailableError for a kind of
    /// tokenizer that this release does not have.
    TextTokenizer(const std::filesystem::path& file, const TokenizerConfig& config);
    ~TextTokenizer();
    TextTokenizer(TextTokenizer&&) noexcept;
    TextTokenizer& operator=(TextTokenizer&&) noexcept;

    /// Ids of one text.
    ///
    /// text: bytes of UTF-8; a byte that is no part of valid UTF-8 is read as Python's `bytes.decode("utf-8", "surrogateescape")`
    /// reads it, and so becomes U+FFFD.
    /// ids: context_length numbers, all written.
    void encode(std::string_view text, std::span<std::int32_t> ids) const;

private:
    struct Parts;
    std::unique_ptr<const Parts> parts_;
};

}  // namespace oce::core
