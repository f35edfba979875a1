// The JSON of a tokenizer.json in little memory: the vocabulary and the merges are kept out of the tree of values.
#include "text/tokenizer_json.hpp"

#include <stdexcept>

namespace oce::core {

namespace {

using nlohmann::json;

/// Receives the file's values one by one, as nlohmann::json::sax_parse gives them.
class Receiver {
public:
    explicit Receiver(TokenizerJson& result) : result_(result) {}

    bool null() { return value(nullptr); }
    bool boolean(bool flag) { return value(flag); }
    bool number_float(double number, const std::string&) { return value(number); }
    bool binary(json::binary_t&) { return false; }

    bool number_integer(std::int64_t number) { return value(number); }

    bool number_unsigned(std::uint64_t number) {
        if (inside_ != Inside::vocabulary || depth_ != kVocabularyDepth) return value(number);
        if (number > INT32_MAX) return damage("an id of the vocabulary is too high");
        result_.vocabulary.push_back({piece_.offset, piece_.length, static_cast<std::int32_t>(number)});
        return true;
    }

    bool string(std::string& text) {
        if (inside_ != Inside::merges || depth_ != kPairDepth) return value(std::move(text));
        result_.merged.push_back(kept(text));
        ++halves_;
        return true;
    }

    bool start_object(std::size_t) { return open(json::object()); }
    bool start_array(std::size_t) { return open(json::array()); }
    bool end_object() { return close(); }

    bool end_array() {
        if (inside_ == Inside::merges && depth_ == kPairDepth && halves_ != 2) damage("a merge is no pair");
        return close();
    }

    bool key(std::string& name) {
        if (inside_ == Inside::tree) {
            key_ = std::move(name);
        } else if (inside_ == Inside::vocabulary && depth_ == kVocabularyDepth) {
            piece_ = kept(name);
        }
        return true;
    }

    [[noreturn]] bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) {
        throw std::runtime_error(error.what());
    }

private:
    enum class Inside { tree, vocabulary, merges };
    // Depths at which the vocabulary's entries, the list of merges and each merge's halves stand.
    static constexpr std::size_t kVocabularyDepth = 3, kPairDepth = 4, kDeepest = 100;

    TokenizerJson::Piece kept(std::string_view text) {
        const TokenizerJson::Piece piece{static_cast<std::uint32_t>(result_.texts.size()), static_cast<std::uint32_t>(text.size()),
                                         0};
        result_.texts += text;
        return piece;
    }

    /// Note the first thing that is wrong; whether it matters is known when the kind of the tokenizer is.
    bool damage(const char* words) {
        if (result_.damage.empty()) result_.damage = words;
        return true;
    }

    json* place(json&& value) {
        if (open_.empty()) return &(result_.rest = std::move(value));
        json& parent = *open_.back();
        if (parent.is_object()) return &(parent[key_] = std::move(value));
        parent.push_back(std::move(value));
        return &parent.back();
    }

    bool value(json&& value) {
        if (inside_ == Inside::vocabulary) return damage("the vocabulary is not a list of ids by name");
        if (inside_ == Inside::merges) return damage("the merges are not a list of pairs");
        place(std::move(value));
        return true;
    }

    bool open(json&& value) {
        if (++depth_ > kDeepest) throw std::runtime_error("values are nested too deeply");
        if (inside_ == Inside::merges && depth_ == kPairDepth && value.is_array()) {
            halves_ = 0;
        } else if (inside_ != Inside::tree) {
            damage("a value of the vocabulary or the merges has the wrong type");
        } else {
            const bool in_model = depth_ == 3 && open_.size() == 2 && in_model_;
            if (depth_ == 2) in_model_ = open_.back()->is_object() && key_ == "model";
            if (in_model && key_ == "vocab" && value.is_object()) {
                inside_ = Inside::vocabulary;
                result_.has_vocabulary = true;
            } else if (in_model && key_ == "merges" && value.is_array()) {
                inside_ = Inside::merges;
                result_.has_merges = true;
            } else {
                open_.push_back(place(std::move(value)));
            }
        }
        return true;
    }

    bool close() {
        --depth_;
        if (inside_ == Inside::tree) {
            open_.pop_back();
        } else if (depth_ == kVocabularyDepth - 1) {
            inside_ = Inside::tree;
        }
        return true;
    }

    TokenizerJson& result_;
    std::vector<json*> open_;
    std::string key_;
    TokenizerJson::Piece piece_{0, 0, 0};
    std::size_t depth_ = 0;
    int halves_ = 0;
    bool in_model_ = false;
    Inside inside_ = Inside::tree;
};

}  // namespace

TokenizerJson read_tokenizer_json(std::string_view text) {
    if (text.size() > INT32_MAX) throw std::runtime_error("the file is too large");
    TokenizerJson result;
    result.texts.reserve(text.size() / 2);
    Receiver receiver(result);
    json::sax_parse(text.begin(), text.end(), &receiver);
    return result;
}

}  // namespace oce::core
