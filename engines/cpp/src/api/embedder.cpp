// The embedder: images and texts through preprocessing, batching and engines.
#include "api/embedder.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "batching/run.hpp"
#include "bundle/files.hpp"
#include "errors.hpp"
#include "modules/choice.hpp"

namespace oce::core {
namespace {

constexpr std::size_t kTextChunk = 8192;  // texts that are tokenized and sorted by length together

Manifest checked_manifest(const std::filesystem::path& bundle, const Options& options) {
    Manifest manifest = read_manifest(bundle);
    // Preprocessing alone reads no other file, and the checksums of linked files take seconds.
    if (options.engine != "none" || options.text) verify_files(bundle, manifest, false);
    return manifest;
}

/// Throw the first failure, or hand all of them to the caller's function.
void report(const std::vector<ImageFailure>& failures, const FailureFunction& failure) {
    for (const ImageFailure& item : failures) {
        if (item.status == OCE_INTERNAL_ERROR) throw std::logic_error(item.message);
        if (!failure) throw ImageError(item.message);
        failure(item);
    }
}

std::string filled(std::string_view text, std::string_view label) {
    std::string prompt;
    for (std::size_t at = 0;;) {
        const std::size_t next = text.find("{}", at);
        prompt += text.substr(at, next == std::string_view::npos ? next : next - at);
        if (next == std::string_view::npos) return prompt;
        prompt += label;
        at = next + 2;
    }
}

/// The mean of `count` rows, then of length 1.
void mean_row(const float* rows, std::size_t count, std::size_t width, float* result) {
    std::fill_n(result, width, 0.0F);
    for (std::size_t row = 0; row < count; ++row) {
        for (std::size_t column = 0; column < width; ++column) result[column] += rows[row * width + column];
    }
    double squares = 0;
    for (std::size_t column = 0; column < width; ++column) {
        result[column] /= static_cast<float>(count);
        squares += static_cast<double>(result[column]) * static_cast<double>(result[column]);
    }
    const auto norm = static_cast<float>(std::sqrt(squares));
    for (std::size_t column = 0; column < width; ++column) result[column] /= norm;
}

/// Pixels as input of a float32 graph, (count, 3, H, W): divided by 255, minus the mean, divided by the standard deviation, in
/// float32.
std::vector<float> normalized(const std::uint8_t* pixels, std::size_t count, const Preprocess& config) {
    const std::size_t plane = static_cast<std::size_t>(config.height) * static_cast<std::size_t>(config.width);
    std::vector<float> floats(count * 3 * plane);
    for (std::size_t image = 0; image < count; ++image) {
        for (std::size_t channel = 0; channel < 3; ++channel) {
            const auto mean = static_cast<float>(config.mean[channel]);
            const auto deviation = static_cast<float>(config.std[channel]);
            const std::uint8_t* source = pixels + image * 3 * plane + channel;
            float* target = &floats[(image * 3 + channel) * plane];
            for (std::size_t at = 0; at < plane; ++at) {
                target[at] = (static_cast<float>(source[at * 3]) / 255.0F - mean) / deviation;
            }
        }
    }
    return floats;
}

}  // namespace

Embedder::Embedder(const std::filesystem::path& bundle, const Options& options)
    : manifest_(checked_manifest(bundle, options)),
      pool_(manifest_.preprocess, options.workers,
            {options.max_pixels > 0 ? options.max_pixels : kMaxPixels, options.fast_decode, options.plain_files}) {
    for (const TowerName name : {TowerName::image, TowerName::text}) {
        const bool wanted = name == TowerName::image ? options.image : options.text;
        const bool there = manifest_.towers.contains(name);
        if (wanted && !there && options.towers_named) {
            const std::string other = name_of(manifest_.towers.begin()->first);
            throw InputError("this bundle has no " + std::string(name_of(name)) + " tower (it has " + other +
                             "): export it with --towers image,text");
        }
        if (!wanted || !there) continue;
        (name == TowerName::image ? image_opened_ : text_opened_) = true;
        if (options.engine == "none") continue;
        auto opened = open_tower(bundle, manifest_, name, options);
        (name == TowerName::image ? image_engine_ : text_engine_) = opened->description();
        (name == TowerName::image ? image_ : text_) = std::move(opened);
    }
    if (text_opened_) tokenizer_.emplace(resolve_path(bundle, manifest_.tokenizer->file), *manifest_.tokenizer);
}

const std::string* Embedder::engine(TowerName tower) const {
    if (tower == TowerName::image) return image_ ? &image_engine_ : nullptr;
    return text_ ? &text_engine_ : nullptr;
}

std::size_t Embedder::context_length() const {
    return manifest_.tokenizer ? static_cast<std::size_t>(manifest_.tokenizer->context_length) : 0;
}

const EngineTower& Embedder::tower(TowerName name) const {
    const auto& opened = name == TowerName::image ? image_ : text_;
    if (opened) return *opened;
    const std::string words = name_of(name);
    if (!manifest_.towers.contains(name)) {
        throw InputError("this bundle has no " + words + " tower (it has " + name_of(manifest_.towers.begin()->first) +
                         "): export it with --towers image,text");
    }
    if (this->opened(name)) throw InputError("the bundle was opened with engine none: open it with an engine to embed");
    throw InputError("the " + words + " tower was not loaded: add it to towers=");
}

void Embedder::check_text() const {
    if (tokenizer_) return;
    if (manifest_.towers.contains(TowerName::text)) throw InputError("the text tower was not loaded: add it to towers=");
    throw InputError("this bundle has no text tower: export it with --towers image,text");
}

void Embedder::encode_images(std::span<const ImageInput> images, float* embeds, const FailureFunction& failure) {
    const EngineTower& runtime = tower(TowerName::image);
    if (images.empty()) throw InputError("there is no image: pass at least one");
    const std::size_t dim = embed_dim();
    const std::size_t bytes = image_bytes();
    std::vector<std::uint8_t> good;
    std::vector<float> results;
    pool_.batches(images, batch_size(runtime.batch(), kImageBatch),
                  [&](std::size_t start, std::span<const std::uint8_t> pixels, const std::vector<ImageFailure>& failures) {
                      const std::size_t count = pixels.size() / bytes;
                      report(failures, failure);
                      if (failures.empty()) {
                          run_pixels(pixels.data(), count, embeds + start * dim);
                          return;
                      }
                      std::fill_n(embeds + start * dim, count * dim, std::numeric_limits<float>::quiet_NaN());
                      std::vector<std::size_t> rows;
                      good.clear();
                      for (std::size_t row = 0, failed = 0; row < count; ++row) {
                          if (failed < failures.size() && failures[failed].index == start + row) {
                              ++failed;
                              continue;
                          }
                          rows.push_back(start + row);
                          const auto image = pixels.subspan(row * bytes, bytes);
                          good.insert(good.end(), image.begin(), image.end());
                      }
                      if (rows.empty()) return;
                      results.resize(rows.size() * dim);
                      run_pixels(good.data(), rows.size(), results.data());
                      for (std::size_t row = 0; row < rows.size(); ++row) {
                          std::copy_n(&results[row * dim], dim, embeds + rows[row] * dim);
                      }
                  });
}

void Embedder::encode_pixels(const std::uint8_t* pixels, std::size_t count, float* embeds) const {
    check_engine(TowerName::image);
    if (count == 0) throw InputError("there is no image: pass at least one");
    run_pixels(pixels, count, embeds);
}

void Embedder::run_pixels(const std::uint8_t* pixels, std::size_t count, float* embeds) const {
    const EngineTower& runtime = tower(TowerName::image);
    const std::size_t size = batch_size(runtime.batch(), kImageBatch);
    const bool floats = manifest_.towers.at(TowerName::image).input.dtype == "float32";
    // Floats are made for one batch at a time, because they take four times the bytes.
    for (std::size_t start = 0; start < count; start += size) {
        const std::size_t part = std::min(size, count - start);
        const std::uint8_t* first = pixels + start * image_bytes();
        float* out = embeds + start * embed_dim();
        if (floats) {
            const std::vector<float> rows = normalized(first, part, manifest_.preprocess);
            run_rows(runtime, rows.data(), part, image_bytes() * sizeof(float), 0, out, embed_dim(), size);
        } else {
            run_rows(runtime, first, part, image_bytes(), 0, out, embed_dim(), size);
        }
    }
    if (check_finite_) check_finite({embeds, count * embed_dim()}, embed_dim(), "image", manifest_.precision);
}

void Embedder::encode_texts(std::span<const std::string_view> texts, float* embeds) const {
    check_engine(TowerName::text);
    if (texts.empty()) throw InputError("there is no text: pass a list of at least one str");
    std::vector<std::int32_t> ids;
    for (std::size_t start = 0; start < texts.size(); start += kTextChunk) {
        const auto chunk = texts.subspan(start, std::min(kTextChunk, texts.size() - start));
        ids.resize(chunk.size() * context_length());
        tokenize(chunk, ids.data());
        encode_ids(ids.data(), chunk.size(), context_length(), embeds + start * embed_dim());
    }
}

void Embedder::encode_ids(const std::int32_t* ids, std::size_t count, std::size_t length, float* embeds) const {
    const EngineTower& runtime = tower(TowerName::text);
    if (count == 0 || length == 0) throw InputError("there is no text: pass at least one row of ids");
    const TokenizerConfig& config = *manifest_.tokenizer;
    const TextLength& rule = *manifest_.towers.at(TowerName::text).length;
    const auto width = static_cast<std::size_t>(rule.max);
    if (length > width) {
        throw InputError("ids are " + std::to_string(length) + " long, the model takes at most " + std::to_string(width));
    }
    const auto [low, high] = std::minmax_element(ids, ids + count * length);
    if (*low < 0 || *high >= config.vocab_size) {
        throw InputError("token id " + std::to_string(*low < 0 ? *low : *high) + " is outside the vocabulary, 0 to " +
                         std::to_string(config.vocab_size - 1));
    }
    std::vector<std::int32_t> padded;
    if (length < width) {
        padded.assign(count * width, config.pad_id);
        for (std::size_t row = 0; row < count; ++row) std::copy_n(ids + row * length, length, &padded[row * width]);
        ids = padded.data();
    }
    run_ids(runtime, ids, count, rule, config.pad_id, embeds, embed_dim(), kTextBatch);
    if (check_finite_) check_finite({embeds, count * embed_dim()}, embed_dim(), "text", manifest_.precision);
}

void Embedder::encode_labels(std::span<const std::string_view> labels, std::span<const std::string_view> templates,
                             float* embeds) const {
    check_engine(TowerName::text);
    if (labels.empty()) throw InputError("there is no label: labels must be a list of at least one str");
    static constexpr std::string_view kPlain = "{}";
    const std::span<const std::string_view> writers = templates.empty() ? std::span(&kPlain, 1) : templates;
    for (std::size_t index = 0; index < writers.size(); ++index) {
        if (writers[index].find("{}") == std::string_view::npos) {
            throw InputError("a template has {} in the place of the label: templates[" + std::to_string(index) + "] has none");
        }
    }
    std::vector<std::string> prompts;
    for (const std::string_view label : labels) {
        for (const std::string_view writer : writers) prompts.push_back(filled(writer, label));
    }
    const std::vector<std::string_view> views(prompts.begin(), prompts.end());
    std::vector<float> all(prompts.size() * embed_dim());
    encode_texts(views, all.data());
    for (std::size_t label = 0; label < labels.size(); ++label) {
        mean_row(&all[label * writers.size() * embed_dim()], writers.size(), embed_dim(), embeds + label * embed_dim());
    }
}

void Embedder::probabilities(const float* images, std::size_t image_count, const float* labels, std::size_t label_count,
                             float* result) const {
    if (image_count == 0 || label_count == 0)
        throw InputError("there is no embedding: pass at least one of an image and of a label");
    const Model& model = manifest_.model;
    const std::size_t dim = embed_dim();
    for (std::size_t image = 0; image < image_count; ++image) {
        float* row = result + image * label_count;
        std::vector<double> logits(label_count);
        for (std::size_t label = 0; label < label_count; ++label) {
            double dot = 0;
            for (std::size_t at = 0; at < dim; ++at) {
                dot += static_cast<double>(images[image * dim + at]) * static_cast<double>(labels[label * dim + at]);
            }
            logits[label] = model.logit_scale * dot;
        }
        if (model.logit_bias) {
            // The logistic function in a form that cannot overflow.
            for (std::size_t label = 0; label < label_count; ++label) {
                row[label] = static_cast<float>(0.5 + 0.5 * std::tanh(0.5 * (logits[label] + *model.logit_bias)));
            }
            continue;
        }
        const double most = *std::max_element(logits.begin(), logits.end());
        double sum = 0;
        for (double& value : logits) sum += value = std::exp(value - most);
        for (std::size_t label = 0; label < label_count; ++label) row[label] = static_cast<float>(logits[label] / sum);
    }
}

void Embedder::preprocess(std::span<const ImageInput> images, std::uint8_t* pixels, const FailureFunction& failure) {
    if (images.empty()) throw InputError("there is no image: pass at least one");
    pool_.batches(images, kImageBatch,
                  [&](std::size_t start, std::span<const std::uint8_t> part, const std::vector<ImageFailure>& failures) {
                      report(failures, failure);
                      std::memcpy(pixels + start * image_bytes(), part.data(), part.size());
                  });
}

void Embedder::tokenize(std::span<const std::string_view> texts, std::int32_t* ids) const {
    check_text();
    if (texts.empty()) throw InputError("texts is empty; pass at least one str");
    const std::size_t width = context_length();
    for (std::size_t row = 0; row < texts.size(); ++row) tokenizer_->encode(texts[row], {ids + row * width, width});
}

}  // namespace oce::core
