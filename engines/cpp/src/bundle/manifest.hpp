// The typed manifest of a bundle; engines/FORMAT.md describes every field.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace oce::core {

inline constexpr int kSchemaVersion = 1;
inline constexpr const char* kManifestName = "manifest.json";

enum class Interpolation { bilinear, bicubic };
enum class ResizeMode { shortest, longest, squash };
enum class Clean { lower, whitespace, canonicalize };
enum class Keep { end, padding, fixed };
enum class TowerName { image, text };

/// The model and the source of its weights; fields as in FORMAT.md.
struct Model {
    std::string name, architecture;
    std::optional<std::string> tag;
    std::string source, weights;
    bool quick_gelu = false;
    std::int64_t embed_dim = 0;
    double logit_scale = 0;
    std::optional<double> logit_bias;
    std::optional<std::string> license, license_source;
};

/// The checkpoint's image transform.
struct Preprocess {
    int height = 0, width = 0;            // pixels
    std::array<double, 3> mean{}, std{};  // of red, green and blue, scaled to 0..1
    Interpolation interpolation = Interpolation::bicubic;
    ResizeMode resize_mode = ResizeMode::shortest;
    bool fill_is_color = false;  // false: fill[0] fills every channel
    std::array<int, 3> fill{};   // red, green, blue, 0 to 255
};

struct TokenizerConfig {
    std::string file;
    int context_length = 0;
    std::int32_t vocab_size = 0;
    Clean clean = Clean::lower;
    std::int32_t pad_id = 0, end_id = 0;
    bool strip_sep_token = false;
    std::optional<std::int32_t> last_id;
};

struct Tensor {
    std::string name, dtype;                                     // dtype: numpy's name
    std::vector<std::variant<std::int64_t, std::string>> shape;  // a string names a free dimension
};

/// How many ids of a row the text tower needs.
struct TextLength {
    Keep keep = Keep::fixed;
    int extra = 0, min = 1, max = 1;
    std::int32_t pad_id = 0;
};

struct Tower {
    std::string graph;
    Tensor input, output;
    std::optional<TextLength> length;  // text towers only
    std::map<std::string, std::string> fp32_units;
};

struct BatchProfile {
    std::int64_t min = 1;
    std::optional<std::int64_t> opt, max;  // max: none is no limit
};

struct Range {
    std::int64_t min = 1, opt = 1, max = 1;
};

struct Profile {
    Range batch;
    std::optional<Range> length;
};

struct Target {
    std::string library, version;
    std::optional<std::string> device, isa, device_compatible;
    bool version_compatible = false;
};

struct Engine {
    std::string kind;
    TowerName tower = TowerName::image;
    std::string file;
    Target target;
    BatchProfile batch;
    std::vector<Profile> profiles;
    bool stripped = false, packed = false;
    std::optional<std::string> inspector;
};

struct Limits {
    double min_cosine = 0, mean_cosine = 0, top1_agreement = 0, tie_margin = 1e-6;
};

struct Parity {
    std::string engine, verified_with;
    Limits limits;
    bool passed = false;
};

struct File {
    std::int64_t bytes = 0;
    std::string sha256;
};

/// The part of manifest.json that serving uses; the reader checks the types and ranges of all other fields, too.
struct Manifest {
    Model model;
    std::string precision;
    Preprocess preprocess;
    std::optional<TokenizerConfig> tokenizer;
    std::map<TowerName, Tower> towers;
    std::vector<Engine> engines;
    std::vector<Parity> parity;
    std::string reference;
    std::map<std::string, std::string> created_with;
    std::vector<std::pair<std::string, File>> files;  // in the manifest's order
};

/// Read and validate a bundle's manifest.
///
/// Throws BundleError where engines.manifest.read_manifest raises one, with the same words where that is possible, and
/// SchemaVersionError for a manifest of a newer schema.
Manifest read_manifest(const std::filesystem::path& bundle);

/// `image` or `text`.
const char* name_of(TowerName tower);

}  // namespace oce::core
