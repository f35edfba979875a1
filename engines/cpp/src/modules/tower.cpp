// A tower of an engine module: its request, its runs, and its errors.
#include <array>
#include <new>

#include "bundle/onnx_external_data.hpp"
#include "errors.hpp"
#include "modules/module.hpp"
#include "process/cores.hpp"

namespace oce::core {
namespace {

constexpr std::int64_t kCudaMemory = std::int64_t{16} << 30;  // enough for the largest tower in float16

/// Room for a module's sentence.
class Message {
public:
    [[nodiscard]] oce_message buffer() { return {text_.data(), text_.size()}; }
    [[nodiscard]] std::string text() const { return text_.data(); }

private:
    std::array<char, 2048> text_{};
};

[[noreturn]] void raise(oce_status status, const std::string& message) {
    if (status == OCE_OUT_OF_MEMORY) throw std::bad_alloc();
    if (status == OCE_ENGINE_UNAVAILABLE) throw EngineUnavailableError(message);
    throw EngineError(message);
}

int element_of(const std::string& dtype) {
    return dtype == "uint8" ? OCE_UINT8 : dtype == "int32" ? OCE_INT32 : OCE_FLOAT32;
}

/// The data files of a graph that are links out of its folder.
class WeightFiles {
public:
    explicit WeightFiles(const std::filesystem::path& graph) : elsewhere_(data_elsewhere(graph)) {
        files_.reserve(elsewhere_.size());
        for (const auto& [location, path] : elsewhere_) files_.push_back({location.c_str(), path.c_str()});
    }
    [[nodiscard]] const oce_weights_file* files() const { return files_.data(); }
    [[nodiscard]] std::size_t count() const { return files_.size(); }

private:
    std::map<std::string, std::filesystem::path> elsewhere_;
    std::vector<oce_weights_file> files_;
};

const char* or_null(const std::optional<std::string>& text) {
    return text ? text->c_str() : nullptr;
}

oce_engine_request request_of(const Engine& engine, const Manifest& manifest, const Options& options) {
    oce_engine_request request{};
    request.size = sizeof(request);
    request.precision = manifest.precision.c_str();
    request.device = options.device.c_str();
    request.target_device = or_null(engine.target.device);
    request.library = or_null(options.engine_library);
    request.threads = options.threads > 0 ? options.threads : engine_threads();
    request.device_id = options.device_id;
    request.cuda_memory_limit = options.cuda_memory_limit > 0 ? options.cuda_memory_limit : kCudaMemory;
    request.allow_cpu_nodes = options.allow_cpu_nodes ? 1 : 0;
    return request;
}

}  // namespace

EngineTower::EngineTower(const oce_module& module, const std::filesystem::path& graph, const Engine& engine, const Tower& tower,
                         const Manifest& manifest, const Options& options)
    : module_(module), batch_(engine.batch) {
    oce_engine_request request = request_of(engine, manifest, options);
    std::vector<std::int64_t> sizes;
    for (std::size_t axis = 1; axis < tower.input.shape.size(); ++axis) {
        const auto* size = std::get_if<std::int64_t>(&tower.input.shape[axis]);
        sizes.push_back(size != nullptr ? *size : -1);
    }
    const WeightFiles weights(graph);
    request.path = graph.c_str();
    request.input_element = element_of(tower.input.dtype);
    request.input_name = tower.input.name.c_str();
    request.output_name = tower.output.name.c_str();
    request.input_sizes = sizes.data();
    request.input_rank = sizes.size();
    request.embed_dim = manifest.model.embed_dim;
    request.weights = weights.files();
    request.weights_count = weights.count();
    Message error;
    const oce_status status = module_.open(&request, &engine_, error.buffer());
    if (status != OCE_OK) raise(status, error.text());
}

EngineTower::~EngineTower() {
    module_.close(engine_);
}

void EngineTower::run(const void* input, std::int64_t rows, std::int64_t length, float* embeds) const {
    Message error;
    const oce_status status = module_.run(engine_, input, rows, length, embeds, error.buffer());
    if (status != OCE_OK) raise(status, error.text());
}

std::optional<std::string> module_refusal(const oce_module& module, const std::filesystem::path& graph, const Engine& engine,
                                          const Manifest& manifest, const Options& options) {
    oce_engine_request request = request_of(engine, manifest, options);
    const WeightFiles weights(graph);
    request.weights = weights.files();
    request.weights_count = weights.count();
    Message reason;
    if (module.why_not(&request, reason.buffer()) == OCE_OK) return {};
    return reason.text();
}

}  // namespace oce::core
