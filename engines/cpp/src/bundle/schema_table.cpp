// Every field of a manifest with its type and range, in the order of engines/schema: a new field is one line here.
#include "bundle/schema_table.hpp"

#include <array>
#include <string_view>

#include "bundle/schema_ranges.hpp"

namespace oce::core {
namespace {

using namespace ranges;
using Choices = std::string_view;

// ---- types ----

constexpr Type kBool{kBoolean};
constexpr Type kInt{kInteger};
constexpr Type kIntOrNull{kInteger | kNull};
constexpr Type kFloat{kNumber};
constexpr Type kFloatOrNull{kNumber | kNull};
constexpr Type kString{kText};
constexpr Type kStringOrNull{kText | kNull};
constexpr Type kStrings{.accepts = kObject, .item = &kString};
constexpr Type kIntegers{.accepts = kObject, .item = &kInt};
constexpr bool kRequired = true;
constexpr bool kOptional = false;

constexpr Type one_of(std::span<const std::string_view> choices, unsigned also = 0) {
    return {.accepts = kText | also, .choices = choices};
}
constexpr Type object(const Struct& structure, unsigned also = 0) {
    return {.accepts = kObject | also, .structure = &structure};
}
constexpr Type objects(const Type& item) {
    return {.accepts = kObject, .item = &item};
}
constexpr Type list(const Type& item, std::size_t length = 0) {
    return {.accepts = kList, .item = &item, .length = length};
}

constexpr std::array<Choices, 6> kSourceNames{"pretrained", "checkpoint", "hf-hub", "local-dir", "demo", "random"};
constexpr std::array<Choices, 5> kPrecisionNames{"fp32", "fp16", "bf16", "int8", "fp8"};
constexpr std::array<Choices, 2> kQuantizedNames{"int8", "float8_e4m3fn"};
constexpr std::array<Choices, 2> kInterpolationNames{"bicubic", "bilinear"};
constexpr std::array<Choices, 3> kResizeNames{"shortest", "longest", "squash"};
constexpr std::array<Choices, 3> kCleanNames{"lower", "whitespace", "canonicalize"};
constexpr std::array<Choices, 3> kKeepNames{"end", "padding", "fixed"};
constexpr std::array<Choices, 2> kTowerNames{"image", "text"};
constexpr std::array<Choices, 2> kLayoutNames{"padded", "packed"};
constexpr std::array<Choices, 2> kDeviceNames{"ampere+", "same-compute-capability"};
constexpr std::array<Choices, 3> kModeNames{"auto", "triton", "native"};

constexpr Type kSource = one_of(kSourceNames), kPrecision = one_of(kPrecisionNames), kQuantizedDtype = one_of(kQuantizedNames);
constexpr Type kInterpolation = one_of(kInterpolationNames), kResizeMode = one_of(kResizeNames), kClean = one_of(kCleanNames);
constexpr Type kKeep = one_of(kKeepNames), kTower = one_of(kTowerNames), kLayout = one_of(kLayoutNames);
constexpr Type kDeviceCompatible = one_of(kDeviceNames, kNull), kMode = one_of(kModeNames);

// ---- structs ----

constexpr Field kModelFields[]{
    {"name", &kString},
    {"architecture", &kString},
    {"tag", &kStringOrNull},
    {"source", &kSource},
    {"weights", &kString, kRequired, nullptr, &kWeights},
    {"quick_gelu", &kBool},
    {"embed_dim", &kInt, kRequired, &kSizes},
    {"logit_scale", &kFloat, kRequired, &kScales},
    {"logit_bias", &kFloatOrNull, kOptional, &kBiases},
    {"license", &kStringOrNull, kOptional},
    {"license_source", &kStringOrNull, kOptional},
};

constexpr Type kSize = list(kInt, 2), kThreeFloats = list(kFloat, 3);
constexpr Type kFillColor{.accepts = kInteger | kList, .item = &kInt, .length = 3};
constexpr Field kPreprocessFields[]{
    {"size", &kSize, kRequired, &kPixels},
    {"mean", &kThreeFloats, kRequired, &kMeans},
    {"std", &kThreeFloats, kRequired, &kDeviations},
    {"interpolation", &kInterpolation},
    {"resize_mode", &kResizeMode},
    {"fill_color", &kFillColor, kOptional, &kColors},
};

constexpr Field kTokenizerFields[]{
    {"file", &kString},
    {"context_length", &kInt, kRequired, &kLengths},
    {"vocab_size", &kInt, kRequired, &kVocabulary},
    {"clean", &kClean},
    {"pad_id", &kInt, kRequired, &kIds},
    {"end_id", &kInt, kRequired, &kIds},
    {"strip_sep_token", &kBool, kOptional},
    {"last_id", &kIntOrNull, kOptional, &kIds},
};

constexpr Type kDimension{kInteger | kText}, kShape = list(kDimension);
constexpr Field kTensorFields[]{
    {"name", &kString, kRequired, nullptr, &kTensorName},
    {"dtype", &kString, kRequired, nullptr, &kDtype},
    {"shape", &kShape, kRequired, &kSizes},
};

constexpr Field kTextLengthFields[]{
    {"keep", &kKeep},
    {"extra", &kInt, kRequired, &kExtraLengths},
    {"min", &kInt, kRequired, &kLengths},
    {"max", &kInt, kRequired, &kLengths},
    {"pad_id", &kInt, kOptional, &kIds},
};

constexpr Field kQuantizationFields[]{
    {"dtype", &kQuantizedDtype},
    {"layers", &kInt, kRequired, &kCounts},
    {"share", &kFloat, kRequired, &kShares},
    {"kept", &kStrings, kOptional},
    {"calibration", &kString},
    {"samples", &kInt, kRequired, &kCounts},
};

constexpr Struct kTensor{kTensorFields}, kTextLength{kTextLengthFields}, kQuantization{kQuantizationFields};
constexpr Type kTensorType = object(kTensor), kTextLengthType = object(kTextLength, kNull),
               kQuantizationType = object(kQuantization, kNull);
constexpr Field kTowerFields[]{
    {"graph", &kString},
    {"input", &kTensorType},
    {"output", &kTensorType},
    {"length", &kTextLengthType, kOptional},
    {"fp32_units", &kStrings, kOptional},
    {"quantization", &kQuantizationType, kOptional},
};

constexpr Field kBatchProfileFields[]{
    {"min", &kInt, kOptional, &kSizes},
    {"opt", &kIntOrNull, kOptional, &kSizes},
    {"max", &kIntOrNull, kOptional, &kSizes},
};

constexpr Field kRangeFields[]{
    {"min", &kInt, kRequired, &kSizes},
    {"opt", &kInt, kRequired, &kSizes},
    {"max", &kInt, kRequired, &kSizes},
};

constexpr Struct kRange{kRangeFields};
constexpr Type kRangeType = object(kRange), kRangeOrNull = object(kRange, kNull);
constexpr Field kProfileFields[]{
    {"batch", &kRangeType},
    {"length", &kRangeOrNull, kOptional},
};

constexpr Field kTargetFields[]{
    {"library", &kString},
    {"version", &kString, kRequired, nullptr, &kLibraryVersion},
    {"device", &kStringOrNull, kOptional},
    {"isa", &kStringOrNull, kOptional},
    {"device_compatible", &kDeviceCompatible, kOptional},
    {"version_compatible", &kBool, kOptional},
};

constexpr Type kLayers = objects(kIntegers), kOption{kBoolean | kInteger | kText}, kOptionsType = objects(kOption);
constexpr Field kBuildFields[]{
    {"seconds", &kFloat, kRequired, &kScales},       {"peak_memory_bytes", &kInt, kRequired, &kCounts},
    {"fused_attention", &kInt, kRequired, &kCounts}, {"decomposed_attention", &kInt, kRequired, &kCounts},
    {"layers", &kLayers, kOptional, &kCounts},       {"options", &kOptionsType, kOptional, &kOptions},
};

constexpr Struct kTarget{kTargetFields}, kBatchProfile{kBatchProfileFields}, kProfile{kProfileFields}, kBuild{kBuildFields};
constexpr Type kTargetType = object(kTarget), kBatchProfileType = object(kBatchProfile), kProfileType = object(kProfile);
constexpr Type kProfilesType = list(kProfileType), kBuildType = object(kBuild, kNull);
constexpr Field kEngineFields[]{
    {"kind", &kString, kRequired, nullptr, &kKind},
    {"tower", &kTower},
    {"file", &kString},
    {"target", &kTargetType},
    {"batch", &kBatchProfileType, kOptional},
    {"profiles", &kProfilesType, kOptional},
    {"stripped", &kBool, kOptional},
    {"input_layout", &kLayout, kOptional},
    {"inspector", &kStringOrNull, kOptional},
    {"build", &kBuildType, kOptional},
};

constexpr Field kLimitsFields[]{
    {"min_cosine", &kFloat, kRequired, &kCosines},
    {"mean_cosine", &kFloat, kRequired, &kCosines},
    {"top1_agreement", &kFloat, kRequired, &kShares},
    {"tie_margin", &kFloat, kOptional, &kMargins},
};

constexpr Field kTowerParityFields[]{
    {"samples", &kInt, kRequired, &kCounts},
    {"min_cosine", &kFloat, kRequired, &kCosines},
    {"mean_cosine", &kFloat, kRequired, &kCosines},
    {"max_abs_error", &kFloat, kRequired, &kDistances},
};

constexpr Field kFloat64CheckFields[]{
    {"failing", &kInt, kRequired, &kCounts},    {"samples", &kInt, kRequired, &kCounts},
    {"eager", &kFloat, kRequired, &kDistances}, {"engine", &kFloat, kRequired, &kDistances},
    {"ratio", &kFloat, kRequired, &kDistances}, {"limit", &kFloat, kRequired, &kDistances},
};

constexpr Struct kLimits{kLimitsFields}, kTowerParity{kTowerParityFields}, kFloat64Check{kFloat64CheckFields};
constexpr Type kLimitsType = object(kLimits), kTowerParityType = object(kTowerParity), kFloat64CheckType = object(kFloat64Check);
constexpr Type kTowerParities = objects(kTowerParityType), kFloat64Checks = objects(kFloat64CheckType);
constexpr Field kParityFields[]{
    {"engine", &kString},
    {"verified_with", &kString},
    {"engine_ran", &kBool, kOptional},
    {"towers", &kTowerParities},
    {"top1_agreement", &kFloatOrNull, kRequired, &kShares},
    {"limits", &kLimitsType},
    {"passed", &kBool},
    {"float64", &kFloat64Checks, kOptional},
    {"accuracy_loss_allowed", &kBool, kOptional},
};

constexpr Field kIntervalFields[]{
    {"value", &kFloat, kRequired, &kCosines},
    {"low", &kFloat, kRequired, &kCosines},
    {"high", &kFloat, kRequired, &kCosines},
};

constexpr Struct kInterval{kIntervalFields};
constexpr Type kIntervalType = object(kInterval), kIntervals = objects(kIntervalType);
constexpr Field kAccuracyFields[]{
    {"engine", &kString},
    {"verified_with", &kString},
    {"dataset", &kString},
    {"samples", &kInt, kRequired, &kCounts},
    {"classes", &kInt, kRequired, &kCounts},
    {"eager", &kIntervals},
    {"figures", &kIntervals},
    {"change", &kIntervals},
    {"limit", &kFloat, kRequired, &kShares},
    {"passed", &kBool},
};

constexpr Field kKernelsFields[]{
    {"mode", &kMode, kOptional},
    {"swapped", &kIntegers, kOptional, &kCounts},
};

constexpr Field kFileFields[]{
    {"bytes", &kInt, kRequired, &kCounts},
    {"sha256", &kString, kRequired, nullptr, &kSha256},
};

constexpr Struct kModel{kModelFields}, kPreprocess{kPreprocessFields}, kTokenizer{kTokenizerFields}, kTowerStruct{kTowerFields};
constexpr Struct kEngine{kEngineFields}, kParity{kParityFields}, kAccuracy{kAccuracyFields}, kKernels{kKernelsFields},
    kFile{kFileFields};
constexpr Type kModelType = object(kModel), kPreprocessType = object(kPreprocess), kTokenizerType = object(kTokenizer, kNull);
constexpr Type kTowerType = object(kTowerStruct), kEngineType = object(kEngine), kParityType = object(kParity);
constexpr Type kTowersType{.accepts = kObject, .item = &kTowerType, .names = kTowerNames};
constexpr Type kEnginesType = list(kEngineType), kParitiesType = list(kParityType);
constexpr Type kAccuracyType = object(kAccuracy), kAccuraciesType = list(kAccuracyType), kKernelsType = object(kKernels);
constexpr Type kFileType = object(kFile), kFilesType = objects(kFileType);
constexpr Field kManifestFields[]{
    {"schema_version", &kInt, kRequired, &kVersions},
    {"model", &kModelType},
    {"precision", &kPrecision},
    {"preprocess", &kPreprocessType},
    {"tokenizer", &kTokenizerType},
    {"towers", &kTowersType},
    {"engines", &kEnginesType},
    {"parity", &kParitiesType},
    {"accuracy", &kAccuraciesType, kOptional},
    {"reference", &kString},
    {"kernels", &kKernelsType, kOptional},
    {"created_with", &kStrings, kOptional},
    {"files", &kFilesType, kOptional},
};

constexpr Field kVersionFields[]{{"schema_version", &kInt}};
constexpr Struct kManifest{kManifestFields}, kVersion{kVersionFields};

}  // namespace

constinit const Type kManifestType = object(kManifest);
constinit const Type kVersionType = object(kVersion);

}  // namespace oce::core
