// An opened bundle: it preprocesses and batches images and texts, and runs the engines (engines/embedder.py).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "batching/decode_pool.hpp"
#include "bundle/manifest.hpp"
#include "modules/module.hpp"
#include "text/tokenizer.hpp"

namespace oce::core {

/// Called for an image that cannot be read; empty: the first such image is an error.
using FailureFunction = std::function<void(const ImageFailure&)>;

/// A loaded bundle; many threads may call it.
class Embedder {
public:
    /// Throws BundleError, InputError or EngineUnavailableError.
    Embedder(const std::filesystem::path& bundle, const Options& options);

    /// Let embeddings with NaN or infinity pass, for whoever judges them.
    void allow_not_finite() { check_finite_ = false; }

    [[nodiscard]] const Manifest& manifest() const { return manifest_; }
    [[nodiscard]] std::size_t embed_dim() const { return static_cast<std::size_t>(manifest_.model.embed_dim); }
    [[nodiscard]] bool opened(TowerName tower) const { return tower == TowerName::image ? image_opened_ : text_opened_; }
    [[nodiscard]] const std::string* engine(TowerName tower) const;
    [[nodiscard]] std::size_t image_bytes() const { return pool_.image_bytes(); }
    [[nodiscard]] std::size_t context_length() const;

    /// Results go to the caller's arrays of count * embed_dim floats.
    void encode_images(std::span<const ImageInput> images, float* embeds, const FailureFunction& failure);
    void encode_pixels(const std::uint8_t* pixels, std::size_t count, float* embeds) const;
    void encode_texts(std::span<const std::string_view> texts, float* embeds) const;
    void encode_ids(const std::int32_t* ids, std::size_t count, std::size_t length, float* embeds) const;
    void encode_labels(std::span<const std::string_view> labels, std::span<const std::string_view> templates, float* embeds) const;
    void probabilities(const float* images, std::size_t image_count, const float* labels, std::size_t label_count,
                       float* result) const;

    /// pixels: count * image_bytes. ids: count * context_length.
    void preprocess(std::span<const ImageInput> images, std::uint8_t* pixels, const FailureFunction& failure);
    void tokenize(std::span<const std::string_view> texts, std::int32_t* ids) const;

private:
    [[nodiscard]] const EngineTower& tower(TowerName name) const;
    void check_engine(TowerName name) const { static_cast<void>(tower(name)); }
    void check_text() const;
    void run_pixels(const std::uint8_t* pixels, std::size_t count, float* embeds) const;

    Manifest manifest_;
    bool image_opened_ = false, text_opened_ = false, check_finite_ = true;
    DecodePool pool_;
    std::unique_ptr<EngineTower> image_, text_;
    std::string image_engine_, text_engine_;
    std::optional<TextTokenizer> tokenizer_;
};

}  // namespace oce::core
