// Fills the structs of manifest.hpp from JSON that was checked already: every number fits its field.
#include "bundle/manifest_values.hpp"

namespace oce::core {
namespace {

std::int64_t integer(const Value& value) {
    return static_cast<std::int64_t>(value.as<WideInteger>());
}

std::int64_t integer_or(const Value& value, std::int64_t otherwise) {
    return value.if_a<WideInteger>() != nullptr ? integer(value) : otherwise;
}

int small(const Value& value) {
    return static_cast<int>(integer(value));
}

bool boolean_or_false(const Value& value) {
    const bool* const held = value.if_a<bool>();
    return held != nullptr && *held;
}

const std::string& text(const Value& value) {
    return value.as<std::string>();
}

/// A value that may be null or absent.
template <typename Held>
std::optional<Held> maybe(const Value& value) {
    const Held* const held = value.if_a<Held>();
    return held == nullptr ? std::nullopt : std::optional<Held>(*held);
}

std::optional<std::int64_t> maybe_integer(const Value& value) {
    return value.if_a<WideInteger>() == nullptr ? std::nullopt : std::optional(integer(value));
}

std::map<std::string, std::string> texts(const Value& value) {
    std::map<std::string, std::string> all;
    if (const auto* dictionary = value.if_a<Dictionary>()) {
        for (const auto& [name, item] : *dictionary) all.emplace(name, text(item));
    }
    return all;
}

Model model_of(const Value& value) {
    return {.name = text(value["name"]),
            .architecture = text(value["architecture"]),
            .tag = maybe<std::string>(value["tag"]),
            .source = text(value["source"]),
            .weights = text(value["weights"]),
            .quick_gelu = value["quick_gelu"].as<bool>(),
            .embed_dim = integer(value["embed_dim"]),
            .logit_scale = value["logit_scale"].as<double>(),
            .logit_bias = maybe<double>(value["logit_bias"]),
            .license = maybe<std::string>(value["license"]),
            .license_source = maybe<std::string>(value["license_source"])};
}

Preprocess preprocess_of(const Value& value) {
    Preprocess preprocess;
    const auto& size = value["size"].as<List>();
    preprocess.height = small(size[0]);
    preprocess.width = small(size[1]);
    for (std::size_t i = 0; i < 3; ++i) {
        preprocess.mean[i] = value["mean"].as<List>()[i].as<double>();
        preprocess.std[i] = value["std"].as<List>()[i].as<double>();
    }
    preprocess.interpolation = text(value["interpolation"]) == "bicubic" ? Interpolation::bicubic : Interpolation::bilinear;
    const std::string& mode = text(value["resize_mode"]);
    preprocess.resize_mode = mode == "shortest"  ? ResizeMode::shortest
                             : mode == "longest" ? ResizeMode::longest
                                                 : ResizeMode::squash;
    const Value& fill = value["fill_color"];
    if (const auto* colors = fill.if_a<List>()) {
        preprocess.fill_is_color = true;
        for (std::size_t i = 0; i < 3; ++i) preprocess.fill[i] = small((*colors)[i]);
    } else {
        preprocess.fill.fill(static_cast<int>(integer_or(fill, 0)));
    }
    return preprocess;
}

TokenizerConfig tokenizer_of(const Value& value) {
    TokenizerConfig tokenizer;
    tokenizer.file = text(value["file"]);
    tokenizer.context_length = small(value["context_length"]);
    tokenizer.vocab_size = small(value["vocab_size"]);
    const std::string& clean = text(value["clean"]);
    tokenizer.clean = clean == "lower" ? Clean::lower : clean == "whitespace" ? Clean::whitespace : Clean::canonicalize;
    tokenizer.pad_id = small(value["pad_id"]);
    tokenizer.end_id = small(value["end_id"]);
    tokenizer.strip_sep_token = boolean_or_false(value["strip_sep_token"]);
    if (value["last_id"].if_a<WideInteger>() != nullptr) tokenizer.last_id = small(value["last_id"]);
    return tokenizer;
}

Tensor tensor_of(const Value& value) {
    Tensor tensor{text(value["name"]), text(value["dtype"]), {}};
    for (const Value& size : value["shape"].as<List>()) {
        if (const auto* name = size.if_a<std::string>()) {
            tensor.shape.emplace_back(*name);
        } else {
            tensor.shape.emplace_back(integer(size));
        }
    }
    return tensor;
}

TextLength text_length_of(const Value& value) {
    const std::string& keep = text(value["keep"]);
    return {.keep = keep == "end"       ? Keep::end
                    : keep == "padding" ? Keep::padding
                                        : Keep::fixed,
            .extra = small(value["extra"]),
            .min = small(value["min"]),
            .max = small(value["max"]),
            .pad_id = static_cast<std::int32_t>(integer_or(value["pad_id"], 0))};
}

Tower tower_of(const Value& value) {
    Tower tower{text(value["graph"]), tensor_of(value["input"]), tensor_of(value["output"]), {}, texts(value["fp32_units"])};
    if (value["length"].if_a<Record>() != nullptr) tower.length = text_length_of(value["length"]);
    return tower;
}

Range range_of(const Value& value) {
    return {integer(value["min"]), integer(value["opt"]), integer(value["max"])};
}

Profile profile_of(const Value& value) {
    Profile profile{range_of(value["batch"]), {}};
    if (value["length"].if_a<Record>() != nullptr) profile.length = range_of(value["length"]);
    return profile;
}

Engine engine_of(const Value& value) {
    Engine engine;
    engine.kind = text(value["kind"]);
    engine.tower = tower_named(text(value["tower"]));
    engine.file = text(value["file"]);
    const Value& target = value["target"];
    engine.target = {.library = text(target["library"]),
                     .version = text(target["version"]),
                     .device = maybe<std::string>(target["device"]),
                     .isa = maybe<std::string>(target["isa"]),
                     .device_compatible = maybe<std::string>(target["device_compatible"]),
                     .version_compatible = boolean_or_false(target["version_compatible"])};
    const Value& batch = value["batch"];
    if (batch.if_a<Record>() != nullptr) {
        engine.batch = {integer_or(batch["min"], 1), maybe_integer(batch["opt"]), maybe_integer(batch["max"])};
    }
    if (const auto* profiles = value["profiles"].if_a<List>()) {
        for (const Value& profile : *profiles) engine.profiles.push_back(profile_of(profile));
    }
    engine.stripped = boolean_or_false(value["stripped"]);
    engine.packed = value["input_layout"].if_a<std::string>() != nullptr && text(value["input_layout"]) == "packed";
    engine.inspector = maybe<std::string>(value["inspector"]);
    return engine;
}

Parity parity_of(const Value& value) {
    const Value& limits = value["limits"];
    Parity parity{text(value["engine"]), text(value["verified_with"]), {}, value["passed"].as<bool>()};
    parity.limits.min_cosine = limits["min_cosine"].as<double>();
    parity.limits.mean_cosine = limits["mean_cosine"].as<double>();
    parity.limits.top1_agreement = limits["top1_agreement"].as<double>();
    if (const auto margin = maybe<double>(limits["tie_margin"])) parity.limits.tie_margin = *margin;
    return parity;
}

}  // namespace

TowerName tower_named(std::string_view name) {
    return name == "image" ? TowerName::image : TowerName::text;
}

const char* name_of(TowerName tower) {
    return tower == TowerName::image ? "image" : "text";
}

Manifest manifest_of(const Value& value) {
    Manifest manifest;
    manifest.model = model_of(value["model"]);
    manifest.precision = text(value["precision"]);
    manifest.preprocess = preprocess_of(value["preprocess"]);
    if (value["tokenizer"].if_a<Record>() != nullptr) manifest.tokenizer = tokenizer_of(value["tokenizer"]);
    for (const auto& [name, tower] : value["towers"].as<Dictionary>()) manifest.towers[tower_named(name)] = tower_of(tower);
    for (const Value& engine : value["engines"].as<List>()) manifest.engines.push_back(engine_of(engine));
    for (const Value& row : value["parity"].as<List>()) manifest.parity.push_back(parity_of(row));
    manifest.reference = text(value["reference"]);
    manifest.created_with = texts(value["created_with"]);
    if (const auto* files = value["files"].if_a<Dictionary>()) {
        for (const auto& [name, file] : *files) {
            manifest.files.emplace_back(name, File{integer(file["bytes"]), text(file["sha256"])});
        }
    }
    return manifest;
}

}  // namespace oce::core
