// Threads that decode and preprocess images ahead of the engine.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "errors.hpp"
#include "image/preprocess.hpp"

namespace oce::core {

/// An image that could not be read; its pixels are 0.
struct ImageFailure {
    std::size_t index = 0;
    oce_status status = OCE_OK;
    std::string message;
};

/// A pool of threads. It is started at the first use; many threads may call it at once.
class DecodePool {
public:
    /// workers: number of threads.
    DecodePool(const Preprocess& config, int workers, const DecodeOptions& options);
    ~DecodePool();
    DecodePool(const DecodePool&) = delete;
    DecodePool& operator=(const DecodePool&) = delete;

    /// Called in the caller's thread with consecutive parts of the images: index of the first, pixels (count, H, W, 3), and the
    /// part's failures in order.
    using Batch =
        std::function<void(std::size_t start, std::span<const std::uint8_t> pixels, const std::vector<ImageFailure>& failures)>;

    /// Preprocess images in batches of `size`, two batches ahead of the one that `batch` works on.
    void batches(std::span<const ImageInput> images, std::size_t size, const Batch& batch);

    [[nodiscard]] std::size_t image_bytes() const { return image_bytes_; }

private:
    struct Job;
    void start();
    void submit(const std::shared_ptr<Job>& job, std::span<const ImageInput> images);
    void work();
    void decode(const ImageInput& image, std::size_t index, Job& job) const;

    const Preprocess config_;
    const std::size_t workers_;
    const DecodeOptions options_;
    const std::size_t image_bytes_;
    std::mutex mutex_;
    std::condition_variable waiting_;
    std::deque<std::function<void()>> tasks_;
    std::vector<std::thread> threads_;
    bool closed_ = false;
};

}  // namespace oce::core
