// The engine module for OpenVINO, with the settings of engines/runtimes/openvino.py. It is built for one release of OpenVINO.
#include <deque>
#include <fstream>
#include <mutex>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "message.hpp"

namespace oce::plugin {
namespace {

/// The process's one core. It is never destroyed: a core that ends in another thread than the one that compiled first can leave
/// that thread with an unmapped stack for signals (seen with 2026.4).
ov::Core& core() {
    static auto* const shared = new ov::Core();
    return *shared;
}

std::string version() {
    const std::string build = ov::get_openvino_version().buildNumber;
    return build.substr(0, build.find('-'));
}

ov::element::Type element_of(int32_t element) {
    switch (element) {
        case OCE_UINT8:
            return ov::element::u8;
        case OCE_INT32:
            return ov::element::i32;
        default:
            return ov::element::f32;
    }
}

void check_available(const oce_engine_request& request) {
    if (request.device != nullptr && std::string_view(request.device) == "cuda") throw Unavailable("OpenVINO runs on the CPU");
    if (request.weights_count > 0) {
        throw Unavailable(
            "OpenVINO does not open weights through links; download the bundle with snapshot_download(local_dir=…), copy it with "
            "cp -rL, or use engine onnxruntime");
    }
}

/// One tower in a compiled model; a request for each run at a time.
class Tower {
public:
    explicit Tower(const oce_engine_request& request)
        : element_(element_of(request.input_element)),
          sizes_(request.input_sizes, request.input_sizes + request.input_rank),
          embed_dim_(static_cast<std::size_t>(request.embed_dim)),
          input_name_(request.input_name),
          description_("openvino " + version() + " CPU") {
        ov::AnyMap config = {
            {"PERFORMANCE_HINT", "LATENCY"},
            // Without this hint, processors with bfloat16 units would round everything to bfloat16.
            {"INFERENCE_PRECISION_HINT", "f32"},
            // Number of shapes whose compiled code is kept: texts come in thousands of shapes.
            {"CPU_RUNTIME_CACHE_CAPACITY", "100"},
        };
        if (request.threads > 0) config["INFERENCE_NUM_THREADS"] = request.threads;
        try {
            compiled_ = core().compile_model(core().read_model(std::string(request.path)), "CPU", config);
        } catch (const std::exception& error) {
            throw std::runtime_error("OpenVINO " + version() + " cannot compile " + request.path + ": " + last_line(error.what()));
        }
    }

    void run(const void* input, int64_t rows, int64_t length, float* embeds) {
        ov::Shape shape{static_cast<std::size_t>(rows)};
        for (const int64_t size : sizes_) shape.push_back(static_cast<std::size_t>(size < 0 ? length : size));
        ov::InferRequest request = take();
        try {
            // OpenVINO does not write to inputs.
            request.set_tensor(input_name_, ov::Tensor(element_, shape, const_cast<void*>(input)));
            request.infer();
            const ov::Tensor result = request.get_output_tensor(0);
            if (result.get_size() != static_cast<std::size_t>(rows) * embed_dim_)
                throw std::runtime_error("the output has another size");
            std::copy_n(result.data<const float>(), result.get_size(), embeds);
        } catch (const std::exception& error) {
            throw std::runtime_error(description_ + " failed on " + std::to_string(rows) + " rows: " + last_line(error.what()));
        }
        const std::lock_guard lock(mutex_);
        idle_.push_back(std::move(request));
    }

    [[nodiscard]] const char* description() const { return description_.c_str(); }

private:
    /// The last line of a message that has text, because OpenVINO puts the places in its own source before it.
    static std::string last_line(std::string text) {
        while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
        const std::size_t at = text.rfind('\n');
        return at == std::string::npos ? text : text.substr(at + 1);
    }

    ov::InferRequest take() {
        {
            const std::lock_guard lock(mutex_);
            if (!idle_.empty()) {
                ov::InferRequest request = std::move(idle_.back());
                idle_.pop_back();
                return request;
            }
        }
        return compiled_.create_infer_request();
    }

    ov::CompiledModel compiled_;
    ov::element::Type element_;
    std::vector<int64_t> sizes_;
    std::size_t embed_dim_;
    std::string input_name_, description_;
    std::mutex mutex_;
    std::deque<ov::InferRequest> idle_;
};

oce_status why_not(const oce_engine_request* request, oce_message reason) {
    return guarded(reason, [&] {
        check_available(*request);
        core();
    });
}

oce_status open(const oce_engine_request* request, oce_engine** engine, oce_message error) {
    return guarded(error, [&] {
        check_available(*request);
        *engine = reinterpret_cast<oce_engine*>(new Tower(*request));
    });
}

oce_status run(oce_engine* engine, const void* input, int64_t rows, int64_t length, float* embeds, oce_message error) {
    return guarded(error, [&] { reinterpret_cast<Tower*>(engine)->run(input, rows, length, embeds); });
}

const char* description(const oce_engine* engine) {
    return reinterpret_cast<const Tower*>(engine)->description();
}

void close(oce_engine* engine) {
    delete reinterpret_cast<Tower*>(engine);
}

}  // namespace
}  // namespace oce::plugin

extern "C" __attribute__((visibility("default"))) const oce_module oce_engine_module = {OCE_MODULE_MAGIC,
                                                                                        OCE_MODULE_INTERFACE,
                                                                                        sizeof(oce_module),
                                                                                        "openvino",
                                                                                        "OpenVINO " OCE_OPENVINO_VERSION,
                                                                                        oce::plugin::why_not,
                                                                                        oce::plugin::open,
                                                                                        oce::plugin::run,
                                                                                        oce::plugin::description,
                                                                                        oce::plugin::close};
