// The rules between the fields of a manifest, in the order and the words of engines/schema/consistency.py.
#include "bundle/consistency.hpp"

#include <algorithm>
#include <set>

#include "bundle/engine_kinds.hpp"
#include "bundle/manifest_values.hpp"
#include "bundle/python_text.hpp"

namespace oce::core {
namespace {

using Problem = std::optional<std::string>;

constexpr std::int64_t kMostRunBytes = std::int64_t{8} << 30;  // limit of the rows in an engine's smallest run
constexpr std::int64_t kAnyName = -1;                          // stands for a free dimension

std::string shown(std::int64_t number) {
    return std::to_string(number);
}

std::string shown(const std::optional<std::int64_t>& number) {
    return number ? std::to_string(*number) : "None";
}

bool is_name(const Tensor& tensor, std::size_t axis) {
    return std::holds_alternative<std::string>(tensor.shape[axis]);
}

bool has_size(const Tensor& tensor, std::size_t axis, std::int64_t size) {
    const auto* const actual = std::get_if<std::int64_t>(&tensor.shape[axis]);
    return size == kAnyName ? actual == nullptr : actual != nullptr && *actual == size;
}

/// Whether a tensor's shape is a name and then these sizes.
bool is_rows_of(const Tensor& tensor, std::initializer_list<std::int64_t> sizes) {
    if (tensor.shape.size() != sizes.size() + 1 || !is_name(tensor, 0)) return false;
    std::size_t axis = 0;
    return std::all_of(sizes.begin(), sizes.end(), [&](std::int64_t size) { return has_size(tensor, ++axis, size); });
}

Problem output_problem(const Manifest& manifest, TowerName name) {
    const std::int64_t dim = manifest.model.embed_dim;
    const Tensor& output = manifest.towers.at(name).output;
    if (output.dtype == "float32" && is_rows_of(output, {dim})) return {};
    return "towers." + std::string(name_of(name)) + ".output must be float32 of shape (N, " + shown(dim) +
           "), as model.embed_dim says";
}

Problem image_problem(const Manifest& manifest, const Tower& tower) {
    const std::int64_t height = manifest.preprocess.height;
    const std::int64_t width = manifest.preprocess.width;
    if (tower.length) return "towers.image.length is given: only text towers have one";
    if (tower.input.dtype == "uint8" && is_rows_of(tower.input, {height, width, 3})) return {};
    if (tower.input.dtype == "float32" && is_rows_of(tower.input, {3, height, width})) return {};
    const std::string size = shown(height) + ", " + shown(width);
    return "towers.image.input must be uint8 of shape (N, " + size + ", 3) or float32 of shape (N, 3, " + size +
           "), as preprocess.size says";
}

Problem ids_problem(const TokenizerConfig& tokenizer, const TextLength& length) {
    const std::pair<const char*, std::int32_t> ids[]{{"tokenizer.pad_id", tokenizer.pad_id},
                                                     {"tokenizer.last_id", tokenizer.last_id.value_or(0)},
                                                     {"towers.text.length.pad_id", length.pad_id}};
    for (const auto& [place, id] : ids) {
        if (id < tokenizer.vocab_size) continue;
        return std::string(place) + " is " + shown(id) + ": it must be less than tokenizer.vocab_size, " +
               shown(tokenizer.vocab_size);
    }
    return {};
}

Problem text_problem(const TokenizerConfig& tokenizer, const Tower& tower) {
    if (!tower.length) return "towers.text.length is missing: a text tower has one";
    const TextLength& length = *tower.length;
    if (length.min > length.max || length.max != tokenizer.context_length) {
        return "towers.text.length has min " + shown(length.min) + " and max " + shown(length.max) +
               ": max must be the tokenizer's context_length, " + shown(tokenizer.context_length) +
               ", because a caption that is cut before its end has another embedding, and min at most that";
    }
    const Tensor& input = tower.input;
    if (input.dtype != "int32" || !(is_rows_of(input, {kAnyName}) || is_rows_of(input, {length.max}))) {
        return "towers.text.input must be int32 of shape (N, L), where L is a name or towers.text.length.max";
    }
    if (!is_name(input, 1) && length.min != length.max) {
        return "towers.text.length must have equal min and max where the input's length is a number";
    }
    return ids_problem(tokenizer, length);
}

bool is_ordered(const Range& sizes) {
    return sizes.min <= sizes.opt && sizes.opt <= sizes.max;
}

Problem profile_problem(const Engine& engine, const Profile& profile, const Tower& tower) {
    const Range& batch = profile.batch;
    if (!is_ordered(batch) || batch.min < engine.batch.min || batch.max > engine.batch.max.value_or(batch.max)) {
        return ".batch must be ordered, min <= opt <= max, and within the engine's batch";
    }
    if (!profile.length) return {};
    const Range& length = *profile.length;
    if (!tower.length || !is_ordered(length) || length.min < tower.length->min || length.max > tower.length->max) {
        return ".length must be ordered, min <= opt <= max, within the tower's length, and is for text towers only";
    }
    return {};
}

/// Bytes of one row of a tower's input, or the limit where there are more.
std::int64_t row_bytes(const Tower& tower) {
    std::int64_t bytes = tower.input.dtype == "uint8" ? 1 : 4;
    for (std::size_t axis = 1; axis < tower.input.shape.size(); ++axis) {
        const auto* const size = std::get_if<std::int64_t>(&tower.input.shape[axis]);
        bytes = std::min(bytes * (size != nullptr ? *size : tower.length ? tower.length->max : 1), kMostRunBytes + 1);
    }
    return bytes;
}

Problem batch_problem(const Engine& engine, const Tower& tower) {
    const BatchProfile& batch = engine.batch;
    const EngineKind* const kind = find_kind(engine.kind);
    const std::int64_t most = batch.max.value_or(std::max(batch.min, batch.opt.value_or(1)));
    const std::int64_t opt = batch.opt.value_or(batch.min);
    if (batch.min > opt || opt > most) {
        return ".batch must be ordered, min <= opt <= max, not " + shown(batch.min) + ", " + shown(batch.opt) + ", " +
               shown(batch.max);
    }
    if (batch.min > 1 && ((kind != nullptr && kind->any_batch) || engine.profiles.empty())) {
        return ".batch.min is " + shown(batch.min) +
               ": only an engine that is built for some batches (profiles) has another least batch than 1";
    }
    if (batch.min * row_bytes(tower) > kMostRunBytes) {
        return ".batch.min is " + shown(batch.min) + ": so many rows take more than " + shown(kMostRunBytes) + " bytes";
    }
    return {};
}

Problem engine_problem(const Manifest& manifest, const Engine& engine) {
    const auto tower = manifest.towers.find(engine.tower);
    if (tower == manifest.towers.end()) return ".tower is " + std::string(name_of(engine.tower)) + ", which the bundle has not";
    if (auto problem = batch_problem(engine, tower->second)) return problem;
    for (std::size_t i = 0; i < engine.profiles.size(); ++i) {
        const Problem problem = profile_problem(engine, engine.profiles[i], tower->second);
        if (problem) return ".profiles[" + std::to_string(i) + "]" + *problem;
    }
    const EngineKind* const kind = find_kind(engine.kind);
    if (engine.packed && (kind == nullptr || !kind->packs_captions || engine.tower != TowerName::text)) {
        return ".input_layout is packed: only aotinductor's text engines are";
    }
    return {};
}

std::set<std::string> names(const Value& figures) {
    std::set<std::string> all;
    for (const auto& item : figures.as<Dictionary>()) all.insert(item.name);
    return all;
}

Problem accuracy_problem(const Value& row) {
    const std::set<std::string> eager = names(row["eager"]);
    const std::set<std::string> figures = names(row["figures"]);
    for (const std::string& name : names(row["change"])) {
        if (eager.contains(name) && figures.contains(name)) continue;
        return ".change has " + python_repr(first_characters(name, 100)) + ", which eager and figures have not both";
    }
    return {};
}

Problem towers_problem(const Manifest& manifest, const Value& value) {
    const auto image = manifest.towers.find(TowerName::image);
    const auto text = manifest.towers.find(TowerName::text);
    if (manifest.towers.empty()) return "towers is empty: a bundle has an image or a text tower";
    if (manifest.tokenizer.has_value() != (text != manifest.towers.end())) {
        return "tokenizer must be there exactly where there is a text tower";
    }
    if (manifest.model.logit_scale == 0) return "model.logit_scale is 0: it must be larger";
    for (const auto& item : value["towers"].as<Dictionary>()) {
        if (auto problem = output_problem(manifest, tower_named(item.name))) return problem;
    }
    if (image != manifest.towers.end()) {
        if (auto problem = image_problem(manifest, image->second)) return problem;
    }
    if (text != manifest.towers.end()) return text_problem(*manifest.tokenizer, text->second);
    return {};
}

}  // namespace

std::optional<std::string> contradiction(const Manifest& manifest, const Value& value) {
    if (auto problem = towers_problem(manifest, value)) return problem;
    for (std::size_t i = 0; i < manifest.engines.size(); ++i) {
        const Problem problem = engine_problem(manifest, manifest.engines[i]);
        if (problem) return "engines[" + std::to_string(i) + "]" + *problem;
    }
    const auto* const rows = value["accuracy"].if_a<List>();
    for (std::size_t i = 0; rows != nullptr && i < rows->size(); ++i) {
        const Problem problem = accuracy_problem((*rows)[i]);
        if (problem) return "accuracy[" + std::to_string(i) + "]" + *problem;
    }
    return {};
}

}  // namespace oce::core
