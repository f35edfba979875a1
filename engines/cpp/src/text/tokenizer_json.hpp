// The JSON of a tokenizer.json in little memory: the vocabulary and the merges are kept out of the tree of values.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace oce::core {

/// What a tokenizer.json holds. Texts of the vocabulary and the merges stand in one string.
struct TokenizerJson {
    struct Piece {
        std::uint32_t offset, length;
        std::int32_t id;
    };

    nlohmann::json rest;  // all but model.vocab and model.merges
    std::string texts;
    std::vector<Piece> vocabulary;
    std::vector<Piece> merged;  // both halves of each merge, one after the other; their ids are not set
    bool has_vocabulary = false, has_merges = false;
    std::string damage;  // what is wrong with the vocabulary or the merges; empty: nothing

    [[nodiscard]] std::string_view text(const Piece& piece) const {
        return std::string_view(texts).substr(piece.offset, piece.length);
    }
};

/// Throws std::runtime_error where the text is no JSON, or its values are nested more than 100 deep.
TokenizerJson read_tokenizer_json(std::string_view text);

}  // namespace oce::core
