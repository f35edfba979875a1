// The parity gate on the machine that serves: engines' embeddings of the bundle's inputs against eager float32's in the bundle.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "api/embedder.hpp"
#include "errors.hpp"
#include "verification/comparisons.hpp"

namespace oce::core {
namespace {

using Json = nlohmann::json;

// An engine may be this many times as far from float64 as eager's float32, and always this far
// (engines/verification/rough_inputs.py).
constexpr double kRatioLimit = 4.0;
constexpr double kLeastDistance = 1e-6;
constexpr double kNotFinite = 1e30;  // the error of NaN and infinity, which JSON does not have

/// Rows of float32 embeddings.
struct Rows {
    std::size_t count = 0, width = 0;
    std::vector<float> values;
    [[nodiscard]] const float* row(std::size_t index) const { return &values[index * width]; }
};

std::vector<float> floats_of(const NpyArray& array) {
    std::vector<float> values(array.data.size() / sizeof(float));
    std::memcpy(values.data(), array.data.data(), values.size() * sizeof(float));
    return values;
}

Rows expected_rows(const Arrays& arrays, const std::string& name, std::size_t count, std::size_t width) {
    const NpyArray& array = array_of(arrays, name, "float32", 2);
    if (array.shape != std::vector<std::int64_t>{static_cast<std::int64_t>(count), static_cast<std::int64_t>(width)}) {
        throw std::invalid_argument(name + " has another shape than its inputs need");
    }
    return {count, width, floats_of(array)};
}

const NpyArray& inputs_of(const Arrays& arrays, const std::string& name, TowerName tower, const Manifest& manifest) {
    const bool image = tower == TowerName::image;
    const NpyArray& array = array_of(arrays, name, image ? "uint8" : "int32", image ? 4 : 2);
    const Preprocess& config = manifest.preprocess;
    const std::vector<std::int64_t> row = image ? std::vector<std::int64_t>{config.height, config.width, 3}
                                                : std::vector<std::int64_t>{manifest.tokenizer->context_length};
    if (!std::equal(row.begin(), row.end(), array.shape.begin() + 1, array.shape.end())) {
        throw std::invalid_argument(name + " has another shape than the tower's input");
    }
    return array;
}

Rows embedded(Embedder& embedder, TowerName tower, const NpyArray& inputs) {
    Rows rows{static_cast<std::size_t>(inputs.shape[0]), embedder.embed_dim(), {}};
    rows.values.resize(rows.count * rows.width);
    if (rows.count == 0) return rows;
    try {
        if (tower == TowerName::image) {
            embedder.encode_pixels(inputs.data.data(), rows.count, rows.values.data());
        } else {
            std::vector<std::int32_t> ids(inputs.data.size() / sizeof(std::int32_t));
            std::memcpy(ids.data(), inputs.data.data(), inputs.data.size());
            embedder.encode_ids(ids.data(), rows.count, embedder.context_length(), rows.values.data());
        }
    } catch (const InputError& error) {
        throw std::invalid_argument(error.what());
    }
    return rows;
}

double dot(const float* left, const float* right, std::size_t width) {
    double sum = 0;
    for (std::size_t at = 0; at < width; ++at) sum += static_cast<double>(left[at]) * static_cast<double>(right[at]);
    return sum;
}

Json figures(const Rows& exact, const Rows& other) {
    double least = 1;
    double total = 0;
    double largest = 0;
    for (std::size_t row = 0; row < exact.count; ++row) {
        const double norms =
            std::sqrt(dot(exact.row(row), exact.row(row), exact.width) * dot(other.row(row), other.row(row), exact.width));
        const double cosine = norms > 0 && std::isfinite(norms)
                                  ? std::clamp(dot(exact.row(row), other.row(row), exact.width) / norms, -1.0, 1.0)
                                  : -1.0;
        least = std::min(least, cosine);
        total += cosine;
        for (std::size_t at = 0; at < exact.width; ++at) {
            const double error = std::abs(static_cast<double>(exact.row(row)[at]) - static_cast<double>(other.row(row)[at]));
            largest = std::isfinite(error) ? std::max(largest, error) : kNotFinite;
        }
    }
    return {{"samples", exact.count},
            {"min_cosine", least},
            {"mean_cosine", total / static_cast<double>(exact.count)},
            {"max_abs_error", largest}};
}

bool within(const Json& row, const Limits& limits) {
    return row["min_cosine"].get<double>() >= limits.min_cosine && row["mean_cosine"].get<double>() >= limits.mean_cosine;
}

/// Share of the images whose best caption is as good as eager's best, within each image's margin.
double top1_agreement(const Rows& images, const Rows& texts, const Rows& images_here, const Rows& texts_here,
                      const std::vector<double>& margins) {
    std::size_t hits = 0;
    for (std::size_t image = 0; image < images.count; ++image) {
        double best = -std::numeric_limits<double>::infinity();
        double best_here = best;
        double chosen = best;
        for (std::size_t text = 0; text < texts.count; ++text) {
            const double exact = dot(images.row(image), texts.row(text), images.width);
            const double here = dot(images_here.row(image), texts_here.row(text), images.width);
            best = std::max(best, exact);
            if (here > best_here) {
                best_here = here;
                chosen = exact;
            }
        }
        hits += chosen >= best - margins[image] ? 1U : 0U;
    }
    return static_cast<double>(hits) / static_cast<double>(images.count);
}

std::vector<float> distances_of(const Arrays& arrays, const std::string& name, std::size_t count) {
    std::vector<float> values = floats_of(array_of(arrays, name, "float32", 1));
    if (values.size() != count || !std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
        throw std::invalid_argument(name + " does not fit the inputs, or is not a distance");
    }
    return values;
}

/// Distances of the engine and of eager from float64, on inputs on which float32 is rough.
Json rough_check(const Rows& exact, const Rows& here, const std::vector<float>& eager) {
    double farthest = 0;
    double ratio = 0;
    for (std::size_t row = 0; row < exact.count; ++row) {
        double squares = 0;
        for (std::size_t at = 0; at < exact.width; ++at) {
            const double difference = static_cast<double>(here.row(row)[at]) - static_cast<double>(exact.row(row)[at]);
            squares += difference * difference;
        }
        const double distance = std::isfinite(squares) ? std::sqrt(squares) : kNotFinite;
        farthest = std::max(farthest, distance);
        ratio = std::max(ratio, distance / std::max(static_cast<double>(eager[row]), kLeastDistance / kRatioLimit));
    }
    return {{"failing", exact.count}, {"samples", exact.count}, {"eager", *std::max_element(eager.begin(), eager.end())},
            {"engine", farthest},     {"ratio", ratio},         {"limit", kRatioLimit}};
}

/// One tower's results in the row of the report.
struct TowerResult {
    Rows exact, here;
    std::vector<float> spread;  // of each input; empty where no input is rough
    Json figures, float64;
};

TowerResult compare_tower(Embedder& embedder, TowerName tower, const Arrays& arrays) {
    const Manifest& manifest = embedder.manifest();
    const std::string name = name_of(tower);
    const std::string kind = tower == TowerName::image ? "pixels" : "ids";
    const NpyArray& inputs = inputs_of(arrays, name + "_" + kind, tower, manifest);
    const auto count = static_cast<std::size_t>(inputs.shape[0]);
    TowerResult result;
    result.exact = expected_rows(arrays, name + "_embeds", count, embedder.embed_dim());
    result.here = embedded(embedder, tower, inputs);
    if (count > 0) result.figures = figures(result.exact, result.here);
    const std::string rough_name = name + "_rough_" + kind;
    if (!arrays.contains(rough_name)) {
        if (count == 0) throw std::invalid_argument(name + "_" + kind + " is empty");
        return result;
    }
    const NpyArray& rough = inputs_of(arrays, rough_name, tower, manifest);
    const auto rough_count = static_cast<std::size_t>(rough.shape[0]);
    if (rough_count == 0) throw std::invalid_argument(rough_name + " is empty");
    const Rows exact = expected_rows(arrays, name + "_rough_embeds", rough_count, embedder.embed_dim());
    const Rows here = embedded(embedder, tower, rough);
    result.float64 = rough_check(exact, here, distances_of(arrays, name + "_rough_eager", rough_count));
    result.spread = distances_of(arrays, name + "_spread", count);
    if (count == 0) result.figures = figures(exact, here);
    return result;
}

/// Margin of each image within which rounding decides; distances count twice, because two captions are compared.
std::vector<double> margins_of(const TowerResult& image, const TowerResult& text, double tie_margin) {
    double texts = 0;
    for (const float value : text.spread) texts = std::max(texts, static_cast<double>(value));
    std::vector<double> margins(image.exact.count, tie_margin + 2 * texts);
    for (std::size_t row = 0; row < image.spread.size(); ++row) margins[row] += 2 * static_cast<double>(image.spread[row]);
    return margins;
}

void append(std::string& all, const std::string& text) {
    if (all.find(text) == std::string::npos) all += (all.empty() ? "" : " + ") + text;
}

Options for_tower(Options options, TowerName tower) {
    options.towers_named = true;
    options.image = tower == TowerName::image;
    options.text = tower == TowerName::text;
    options.workers = 1;
    return options;
}

}  // namespace

Json compare_embeddings(const std::filesystem::path& bundle, const Manifest& manifest, const Arrays& arrays,
                        const Options& options) {
    const Limits& limits = manifest.parity.back().limits;
    std::map<TowerName, TowerResult> results;
    std::string ran;
    std::string kinds;
    Json row{{"engine", options.engine}, {"towers", Json::object()}, {"float64", Json::object()}, {"top1_agreement", nullptr}};
    bool passed = true;
    const auto has_engine = [&](TowerName tower) {
        return std::any_of(manifest.engines.begin(), manifest.engines.end(),
                           [&](const Engine& engine) { return engine.kind == options.engine && engine.tower == tower; });
    };
    const bool any = has_engine(TowerName::image) || has_engine(TowerName::text);
    for (const auto& [tower, unused] : manifest.towers) {
        if (any && !has_engine(tower)) continue;
        Embedder embedder(bundle, for_tower(options, tower));
        TowerResult result = compare_tower(embedder, tower, arrays);
        append(ran, *embedder.engine(tower));
        append(kinds, embedder.engine(tower)->substr(0, embedder.engine(tower)->find(' ')));
        row["towers"][name_of(tower)] = result.figures;
        if (result.exact.count > 0) passed = passed && within(result.figures, limits);
        if (!result.float64.is_null()) {
            row["float64"][name_of(tower)] = result.float64;
            passed = passed && result.float64["ratio"].get<double>() <= kRatioLimit;
        }
        results.emplace(tower, std::move(result));
    }
    if (results.size() == 2) {
        const TowerResult& image = results.at(TowerName::image);
        const TowerResult& text = results.at(TowerName::text);
        if (image.exact.count > 0 && text.exact.count > 0) {
            const double agreement =
                top1_agreement(image.exact, text.exact, image.here, text.here, margins_of(image, text, limits.tie_margin));
            row["top1_agreement"] = agreement;
            passed = passed && agreement >= limits.top1_agreement;
        }
    }
    row["engine"] = kinds;
    row["verified_with"] = ran;
    row["limits"] = {{"min_cosine", limits.min_cosine},
                     {"mean_cosine", limits.mean_cosine},
                     {"top1_agreement", limits.top1_agreement},
                     {"tie_margin", limits.tie_margin}};
    row["passed"] = passed;
    return row;
}

}  // namespace oce::core
