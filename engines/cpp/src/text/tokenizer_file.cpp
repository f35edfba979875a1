// A tokenizer.json with byte-level BPE, as the exporter writes it.
#include "text/tokenizer_file.hpp"

#include <algorithm>
#include <cerrno>
#include <initializer_list>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "bundle/mapped_file.hpp"
#include "bundle/python_text.hpp"
#include "errors.hpp"
#include "text/tokenizer_json.hpp"
#include "text/utf8.hpp"
#include "text/vocabulary.hpp"

namespace oce::core {

namespace {

using nlohmann::json;

/// Something that this release does not have.
class Unsupported : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// What makes the file unreadable for every reader.
class Damaged : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

const json& member(const json& object, const char* name) {
    static const json missing;  // null: no memory behind it
    const auto found = object.find(name);
    return found == object.end() ? missing : *found;
}

const json& object_of(const json& parent, const char* name) {
    const json& value = member(parent, name);
    if (!value.is_object()) throw Damaged("`" + std::string(name) + "` is no object");
    return value;
}

std::string shown(const json& value) {
    return value.is_string() ? python_repr(value.get_ref<const std::string&>())
                             : shortened(value.dump(-1, ' ', false, json::error_handler_t::replace), 80);
}

void expect_kind(const json& value, const char* kind, const char* plural) {
    if (member(value, "type") != kind) throw Unsupported(std::string(plural) + " of kind " + shown(member(value, "type")));
}

using Options = std::initializer_list<std::pair<const char*, json>>;

/// Refuse options that are not as this release does it; `free` names those that do not matter here or are looked at elsewhere.
void expect_options(const json& object, const char* what, Options fixed, std::initializer_list<std::string_view> free) {
    const auto refuse = [&](const std::string& name, const json& value) {
        throw Unsupported(std::string(what) + " with '" + shortened(name, 80) + "': " + shown(value));
    };
    for (const auto& [name, wanted] : fixed) {
        const json& value = member(object, name);
        const bool left_out = value.is_null() && (wanted.is_null() || wanted == false);
        if (value != wanted && !left_out) refuse(name, value);
    }
    for (const auto& [name, value] : object.items()) {
        const bool known = std::ranges::any_of(fixed, [&, &name = name](const auto& option) { return name == option.first; }) ||
                           std::ranges::find(free, name) != free.end();
        if (!known) refuse(name, value);
    }
}

std::int32_t id_of(const json& value, const char* what) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > INT32_MAX) throw Damaged(std::string(what) + " is no id");
    return value.get<std::int32_t>();
}

/// The character that stands for a byte in the vocabulary of a byte-level BPE: itself where it can be seen, else one from U+0100.
std::array<std::string, 256> byte_names() {
    std::array<std::string, 256> names;
    char32_t unseen = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
        const bool seen = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
        append_utf8(names[byte], seen ? byte : unseen++);
    }
    return names;
}

BytePairs read_model(const TokenizerJson& file) {
    const json& model = object_of(file.rest, "model");
    expect_kind(model, "BPE", "tokenizers");
    if (!file.has_vocabulary) throw Damaged("missing field `vocab`");
    if (!file.has_merges) throw Damaged("missing field `merges`");
    if (!file.damage.empty()) throw Damaged(file.damage);
    expect_options(model, "BPE models",
                   {{"dropout", nullptr}, {"unk_token", nullptr}, {"byte_fallback", false}, {"ignore_merges", false}},
                   {"type", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk"});
    const json& prefix = member(model, "continuing_subword_prefix");
    if (!prefix.is_null() && prefix != "") throw Unsupported("BPE models with 'continuing_subword_prefix': " + shown(prefix));
    const json& suffix = member(model, "end_of_word_suffix");
    if (!suffix.is_null() && !suffix.is_string()) throw Damaged("`end_of_word_suffix` is no text");

    const Vocabulary vocabulary(file);
    std::vector<Merge> merges;
    merges.reserve(file.merged.size() / 2);
    std::string joined;
    for (std::size_t at = 0; at + 1 < file.merged.size(); at += 2) {
        joined = file.text(file.merged[at]);
        joined += file.text(file.merged[at + 1]);
        const auto known = [&](std::string_view piece) {
            const std::int32_t id = vocabulary.find(piece);
            if (id == BytePairs::kNone)
                throw Damaged("token " + python_repr(shortened(repaired(piece), 80)) + " of a merge is not in the vocabulary");
            return id;
        };
        merges.push_back({known(file.text(file.merged[at])), known(file.text(file.merged[at + 1])), known(joined)});
    }
    BytePairs::ByteIds bytes{}, last_bytes{};
    const std::array<std::string, 256> names = byte_names();
    const std::string end = suffix.is_null() ? "" : suffix.get<std::string>();
    for (std::size_t byte = 0; byte < 256; ++byte) {
        bytes[byte] = vocabulary.find(names[byte]);
        last_bytes[byte] = vocabulary.find(names[byte] + end);
    }
    return {merges, bytes, last_bytes};
}

SplitPattern read_words(const json& root) {
    const json& steps = object_of(root, "pre_tokenizer");
    expect_kind(steps, "Sequence", "pre-tokenizers");
    const json& list = member(steps, "pretokenizers");
    if (!list.is_array()) throw Damaged("`pretokenizers` is no list");
    if (list.size() != 2) throw Unsupported("sequences of " + std::to_string(list.size()) + " pre-tokenizers");
    if (!list[0].is_object() || !list[1].is_object()) throw Damaged("`pretokenizers` is no list of objects");
    expect_kind(list[0], "Split", "first pre-tokenizers");
    expect_options(list[0], "pre-tokenizers of kind 'Split'", {{"behavior", "Removed"}, {"invert", true}}, {"type", "pattern"});
    expect_kind(list[1], "ByteLevel", "second pre-tokenizers");
    expect_options(list[1], "pre-tokenizers of kind 'ByteLevel'", {{"add_prefix_space", false}, {"use_regex", false}},
                   {"type", "trim_offsets"});
    const json& pattern = member(object_of(list[0], "pattern"), "Regex");
    if (!pattern.is_string()) throw Unsupported("split patterns that are no regular expressions");
    try {
        return SplitPattern(pattern.get_ref<const std::string&>());
    } catch (const std::invalid_argument& error) {
        throw Unsupported("split patterns that are " + std::string(error.what()));
    }
}

/// Append the ids of a special token of the template.
void append_special(std::vector<std::int32_t>& ids, const json& specials, const json& piece) {
    const json& name = member(object_of(piece, "SpecialToken"), "id");
    if (!name.is_string()) throw Damaged("a special token has no name");
    const json& special = member(specials, name.get_ref<const std::string&>().c_str());
    if (!special.is_object()) throw Damaged("missing special token " + python_repr(name.get_ref<const std::string&>()));
    const json& list = member(special, "ids");
    if (!list.is_array()) throw Damaged("a special token has no ids");
    for (const json& id : list) ids.push_back(id_of(id, "a special token's number"));
}

void read_template(const json& root, TokenizerFile& result) {
    const json& processor = object_of(root, "post_processor");
    expect_kind(processor, "TemplateProcessing", "post-processors");
    expect_options(processor, "post-processors of kind 'TemplateProcessing'", {}, {"type", "single", "pair", "special_tokens"});
    const json& pieces = member(processor, "single");
    const json& specials = object_of(processor, "special_tokens");
    if (!pieces.is_array()) throw Damaged("`single` is no list");
    bool behind = false;
    for (const json& piece : pieces) {
        if (!piece.is_object()) throw Damaged("a piece of the template is no object");
        if (piece.contains("SpecialToken")) {
            append_special(behind ? result.end : result.start, specials, piece);
            continue;
        }
        if (behind || member(object_of(piece, "Sequence"), "id") != "A") throw Unsupported("templates with other texts than one");
        behind = true;
    }
    if (!behind) throw Unsupported("templates without a text");
}

std::optional<std::int64_t> length_of(const json& value) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > INT64_MAX) throw Damaged("a length is no whole number");
    return value.get<std::int64_t>();
}

void read_lengths(const json& root, TokenizerFile& result) {
    const json &truncation = member(root, "truncation"), &padding = member(root, "padding");
    if (!truncation.is_null()) {
        result.max_length = length_of(member(object_of(root, "truncation"), "max_length"));
        expect_options(truncation, "truncations", {{"direction", "Right"}, {"strategy", "LongestFirst"}, {"stride", 0}},
                       {"max_length"});
    }
    if (!padding.is_null()) {
        const json& strategy = member(object_of(root, "padding"), "strategy");
        if (strategy.is_object()) result.padded_length = length_of(member(strategy, "Fixed"));
        result.pad_id = id_of(member(padding, "pad_id"), "`pad_id`");
        expect_options(padding, "paddings", {{"direction", "Right"}, {"pad_to_multiple_of", nullptr}},
                       {"strategy", "pad_id", "pad_type_id", "pad_token"});
    }
}

TokenizerFile read_checked(std::string_view text) {
    const TokenizerJson file = read_tokenizer_json(text);
    const json& root = file.rest;
    if (!root.is_object()) throw Damaged("not an object");
    BytePairs pieces = read_model(file);
    for (const auto& [name, plural] : {std::pair("normalizer", "normalizers"), std::pair("decoder", "decoders")}) {
        if (!member(root, name).is_null())
            throw Unsupported(std::string(plural) + " of kind " + shown(member(object_of(root, name), "type")));
    }
    const json& added = member(root, "added_tokens");
    if (!added.is_null() && added != json::array()) throw Unsupported("added tokens");
    TokenizerFile result{read_words(root), std::move(pieces), {}, {}, 0, {}, {}};
    read_template(root, result);
    read_lengths(root, result);
    return result;
}

}  // namespace

TokenizerFile read_tokenizer_file(const std::filesystem::path& file) {
    const std::string name = repaired(file.native());
    const auto damaged = [&](std::string_view reason) {  // which may quote bytes of the file
        return BundleError(name + ": not a readable tokenizer file (" + repaired(reason) + "); export the bundle again");
    };
    try {
        return read_checked(MappedFile(file).bytes());
    } catch (const std::system_error& error) {
        const int code = error.code().value();
        if (code == ENOENT || code == ENOTDIR) throw BundleError(name + ": the tokenizer file is missing; export the bundle again");
        throw damaged(system_words(code));
    } catch (const Unsupported& error) {
        throw EngineUnavailableError(name + ": " + error.what() +
                                     " are not supported by this release of the C++ library: use the Python runtime");
    } catch (const std::runtime_error& error) {
        throw damaged(error.what());
    } catch (const json::exception& error) {
        throw damaged(error.what());
    }
}

}  // namespace oce::core
