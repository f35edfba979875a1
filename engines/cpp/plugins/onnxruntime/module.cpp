// The engine module for ONNX Runtime, with the session options of engines/runtimes/onnxruntime.py.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fcntl.h>
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "library.hpp"
#include "message.hpp"

namespace oce::plugin {
namespace {

constexpr const char* kCuda = "CUDAExecutionProvider";
constexpr const char* kCpu = "CPUExecutionProvider";

bool is(const char* text, std::string_view wanted) {
    return text != nullptr && wanted == text;
}

bool has_cuda() {
    const std::vector<std::string> providers = Ort::GetAvailableProviders();
    return std::find(providers.begin(), providers.end(), kCuda) != providers.end();
}

/// Whether the CUDA driver finds a GPU; the driver's device files are there exactly then.
bool has_gpu() {
    return access("/dev/nvidiactl", F_OK) == 0 || access("/dev/dxg", F_OK) == 0;
}

/// The reason why a session cannot be on the GPU; empty if it can.
std::string no_cuda_reason(const char* device) {
    if (is(device, "cpu")) return "the device is the CPU";
    if (!has_cuda()) return "this ONNX Runtime has no CUDA provider: use the library of the onnxruntime-gpu package";
    if (!has_gpu()) return "there is no NVIDIA GPU here";
    return {};
}

/// Whether a session is on the GPU: where the caller says so, or where nothing speaks against it.
bool on_gpu(const oce_engine_request& request) {
    return is(request.device, "cuda") ||
           (request.allow_cpu_nodes != 0 && !is(request.target_device, "cpu") && no_cuda_reason(request.device).empty());
}

void check_available(const oce_engine_request& request) {
    const std::string no_cuda = no_cuda_reason(request.device);
    if (is(request.device, "cuda")) {
        if (is(request.target_device, "cpu")) throw Unavailable("it was made for the CPU");
        if (!no_cuda.empty()) throw Unavailable(no_cuda);
        // The Python runtime asks ONNX Runtime which nodes the GPU has no kernel for; that function is newer than this module's
        // API.
        if (request.allow_cpu_nodes == 0) {
            throw Unavailable(
                "this module cannot tell which nodes ONNX Runtime would run on the CPU: set allow_cpu_nodes, or use the CPU");
        }
    }
    if (is(request.precision, "bf16") && !on_gpu(request)) {
        throw Unavailable("ONNX Runtime has no bfloat16 kernels for the CPU: use an fp32 or fp16 bundle, or a GPU");
    }
}

/// A file in memory, as long as the object lives.
class MappedFile {
public:
    explicit MappedFile(const char* path) {
        const int descriptor = ::open(path, O_RDONLY | O_CLOEXEC);
        if (descriptor < 0)
            throw std::runtime_error(std::string("cannot read the weights in ") + path + ": " + std::strerror(errno));
        struct stat status {};
        const bool known = ::fstat(descriptor, &status) == 0;
        if (known && status.st_size > 0) {
            bytes_ = static_cast<std::size_t>(status.st_size);
            data_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0);
        }
        ::close(descriptor);
        if (data_ == MAP_FAILED) throw std::runtime_error(std::string("cannot map the weights in ") + path + " into memory");
    }
    ~MappedFile() {
        if (data_ != nullptr && data_ != MAP_FAILED) ::munmap(data_, bytes_);
    }
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    [[nodiscard]] char* data() const { return static_cast<char*>(data_); }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }

private:
    void* data_ = nullptr;
    std::size_t bytes_ = 0;
};

Ort::SessionOptions session_options(const oce_engine_request& request) {
    Ort::SessionOptions options;
    // The highest level adds layout changes of convolutions for the CPU, which help ResNets in float32. On half-precision graphs it
    // can crash the CPU provider.
    options.SetGraphOptimizationLevel(is(request.precision, "fp32") ? ORT_ENABLE_ALL : ORT_ENABLE_EXTENDED);
    options.SetIntraOpNumThreads(request.threads);
    // With memory plans, one is kept for each shape that was ever run, and texts come in thousands of shapes.
    options.DisableMemPattern();
    return options;
}

void append_cuda(Ort::SessionOptions& options, const oce_engine_request& request) {
    const std::unordered_map<std::string, std::string> values = {
        {"device_id", std::to_string(request.device_id)},
        {"gpu_mem_limit", std::to_string(request.cuda_memory_limit)},
        // The arena grows by the requested size rather than to the next power of two.
        {"arena_extend_strategy", "kSameAsRequested"},
        // Trying every convolution algorithm takes seconds for each new batch size, and its workspaces stay in the arena.
        {"cudnn_conv_algo_search", "HEURISTIC"},
        {"cudnn_conv_use_max_workspace", "0"},
        // Products of float32 with a mantissa of 10 bits are off, because units are in float32 for accuracy.
        {"use_tf32", "0"},
    };
    OrtCUDAProviderOptionsV2* cuda = nullptr;
    Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&cuda));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(Ort::GetApi().ReleaseCUDAProviderOptions)> owner(
        cuda, Ort::GetApi().ReleaseCUDAProviderOptions);
    std::vector<const char*> keys;
    std::vector<const char*> texts;
    for (const auto& [key, text] : values) {
        keys.push_back(key.c_str());
        texts.push_back(text.c_str());
    }
    Ort::ThrowOnError(Ort::GetApi().UpdateCUDAProviderOptions(cuda, keys.data(), texts.data(), keys.size()));
    options.AppendExecutionProvider_CUDA_V2(*cuda);
}

ONNXTensorElementDataType element_of(int32_t element) {
    switch (element) {
        case OCE_UINT8:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
        case OCE_INT32:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
        default:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    }
}

std::size_t bytes_of(int32_t element) {
    return element == OCE_UINT8 ? 1 : 4;
}

/// One tower in a session.
class Tower {
public:
    Tower(const OnnxRuntime& library, const oce_engine_request& request)
        : environment_(ORT_LOGGING_LEVEL_FATAL, "openclip_engines"),
          element_(request.input_element),
          sizes_(request.input_sizes, request.input_sizes + request.input_rank),
          embed_dim_(request.embed_dim),
          input_name_(request.input_name),
          output_name_(request.output_name) {
        const bool gpu = on_gpu(request);
        Ort::SessionOptions options = session_options(request);
        if (gpu) append_cuda(options, request);
        std::vector<std::unique_ptr<MappedFile>> files;
        add_weights(options, request, files);
        try {
            session_ = Ort::Session(environment_, request.path, options);
        } catch (const Ort::Exception& error) {
            throw std::runtime_error("ONNX Runtime " + library.version + " cannot load " + request.path + ": " +
                                     first_line(error.what()));
        }
        description_ = "onnxruntime " + library.version + " " + (gpu ? kCuda : kCpu);
    }

    void run(const void* input, int64_t rows, int64_t length, float* embeds) {
        std::vector<int64_t> shape{rows};
        std::size_t bytes = static_cast<std::size_t>(rows) * bytes_of(element_);
        for (const int64_t size : sizes_) {
            shape.push_back(size < 0 ? length : size);
            bytes *= static_cast<std::size_t>(shape.back());
        }
        const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
        // ONNX Runtime does not write to inputs.
        const Ort::Value rows_in =
            Ort::Value::CreateTensor(memory, const_cast<void*>(input), bytes, shape.data(), shape.size(), element_of(element_));
        const std::array<int64_t, 2> embeds_shape{rows, embed_dim_};
        Ort::Value rows_out = Ort::Value::CreateTensor<float>(memory, embeds, static_cast<std::size_t>(rows * embed_dim_),
                                                              embeds_shape.data(), embeds_shape.size());
        const char* const inputs[] = {input_name_.c_str()};
        const char* const outputs[] = {output_name_.c_str()};
        try {
            session_.Run(Ort::RunOptions{nullptr}, inputs, &rows_in, 1, outputs, &rows_out, 1);
        } catch (const Ort::Exception& error) {
            throw std::runtime_error(description_ + " failed on " + std::to_string(rows) + " rows: " + first_line(error.what()));
        }
    }

    [[nodiscard]] const char* description() const { return description_.c_str(); }

private:
    /// Weights behind links out of the folder, which ONNX Runtime itself refuses. The maps are needed only for the load, because
    /// the library copies the weights that it needs.
    static void add_weights(Ort::SessionOptions& options, const oce_engine_request& request,
                            std::vector<std::unique_ptr<MappedFile>>& files) {
        std::vector<std::basic_string<ORTCHAR_T>> names;
        std::vector<char*> buffers;
        std::vector<std::size_t> lengths;
        for (std::size_t index = 0; index < request.weights_count; ++index) {
            auto file = std::make_unique<MappedFile>(request.weights[index].path);
            if (file->bytes() == 0) continue;
            names.emplace_back(request.weights[index].location);
            buffers.push_back(file->data());
            lengths.push_back(file->bytes());
            files.push_back(std::move(file));
        }
        if (!names.empty()) options.AddExternalInitializersFromFilesInMemory(names, buffers, lengths);
    }

    Ort::Env environment_;
    Ort::Session session_{nullptr};
    int32_t element_;
    std::vector<int64_t> sizes_;
    int64_t embed_dim_;
    std::string input_name_, output_name_, description_;
};

oce_status why_not(const oce_engine_request* request, oce_message reason) {
    return guarded(reason, [&] {
        open_onnxruntime(request->library);
        check_available(*request);
    });
}

oce_status open(const oce_engine_request* request, oce_engine** engine, oce_message error) {
    return guarded(error, [&] {
        const OnnxRuntime library = open_onnxruntime(request->library);
        check_available(*request);
        *engine = reinterpret_cast<oce_engine*>(new Tower(library, *request));
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
                                                                                        "onnxruntime",
                                                                                        "ONNX Runtime 1.21 or newer",
                                                                                        oce::plugin::why_not,
                                                                                        oce::plugin::open,
                                                                                        oce::plugin::run,
                                                                                        oce::plugin::description,
                                                                                        oce::plugin::close};
