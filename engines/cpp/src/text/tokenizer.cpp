// Conversion of texts to token ids: open_clip's cleaning, and the rest by the bundle's tokenizer.json.
#include "text/tokenizer.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "bundle/python_text.hpp"
#include "errors.hpp"
#include "text/cleaning.hpp"
#include "text/tokenizer_file.hpp"
#include "text/utf8.hpp"

namespace oce::core {

namespace {

std::string shown(std::optional<std::int64_t> length) {
    return length ? std::to_string(*length) : "None";
}

/// Check that the file makes rows as long as the manifest says; the last position is not its own where `last_id` takes it.
void check_lengths(const TokenizerFile& file, const TokenizerConfig& config, const std::string& name) {
    const std::int64_t length = std::int64_t{config.context_length} - (config.last_id ? 1 : 0);
    if (file.max_length != length || file.padded_length != length) {
        throw BundleError(name + ": truncates to " + shown(file.max_length) + " and pads to " + shown(file.padded_length) +
                          " ids, but the manifest's context length " + std::to_string(config.context_length) + " needs " +
                          std::to_string(length) + "; export the bundle again");
    }
    const std::size_t framing = file.start.size() + file.end.size();
    if (length < 0 || framing > static_cast<std::size_t>(length)) {
        throw BundleError(name + ": " + std::to_string(length) + " ids have no room for the " + std::to_string(framing) +
                          " that begin and end every text; export the bundle again");
    }
}

}  // namespace

struct TextTokenizer::Parts {
    TokenizerFile file;
    TokenizerConfig config;
};

TextTokenizer::TextTokenizer(const std::filesystem::path& file, const TokenizerConfig& config)
    : parts_(std::make_unique<const Parts>(Parts{read_tokenizer_file(file), config})) {
    check_lengths(parts_->file, config, repaired(file.native()));
}

TextTokenizer::~TextTokenizer() = default;
TextTokenizer::TextTokenizer(TextTokenizer&&) noexcept = default;
TextTokenizer& TextTokenizer::operator=(TextTokenizer&&) noexcept = default;

void TextTokenizer::encode(std::string_view text, std::span<std::int32_t> ids) const {
    const auto& [file, config] = *parts_;
    const std::u32string cleaned = clean(text, config.clean);
    const std::size_t length = ids.size() - (config.last_id ? 1 : 0), most = length - file.end.size();
    std::vector<std::int32_t> row = file.start;
    std::string word;
    for (std::size_t at = 0; at < cleaned.size() && row.size() < most;) {
        const std::size_t matched = file.words.match(cleaned, at);
        word.clear();
        for (const char32_t character : std::u32string_view(cleaned).substr(at, matched)) append_utf8(word, character);
        file.pieces.encode(word, row);
        at += std::max<std::size_t>(matched, 1);
    }
    row.resize(std::min(row.size(), most));
    row.insert(row.end(), file.end.begin(), file.end.end());
    row.resize(length, file.pad_id);
    if (config.strip_sep_token) std::ranges::replace(row, config.end_id, 0);
    if (config.last_id) row.push_back(*config.last_id);
    std::ranges::copy(row, ids.begin());
}

}  // namespace oce::core
