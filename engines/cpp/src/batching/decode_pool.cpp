// The pool's threads, and the order of batches.
#include "batching/decode_pool.hpp"

#include <algorithm>
#include <iterator>
#include <memory>
#include <system_error>

#include "process/cores.hpp"

namespace oce::core {
namespace {

constexpr std::size_t kAhead = 2;  // batches that are decoded while the engine works on an earlier one

/// Note a failure; where there is no memory for its message, the message stays empty.
void describe(ImageFailure& failure, oce_status status, const char* message) noexcept {
    failure.status = status;
    try {
        failure.message = message;
    } catch (...) {
        failure.message.clear();
    }
}

}  // namespace

/// One batch of a caller.
struct DecodePool::Job {
    std::size_t start = 0;
    std::vector<std::uint8_t> pixels;
    std::vector<ImageFailure> slots;  // one for each image
    std::size_t open = 0;             // images that are not decoded yet
    bool cancelled = false;
    std::mutex mutex;
    std::condition_variable done;

    void wait() {
        std::unique_lock lock(mutex);
        done.wait(lock, [this] { return open == 0; });
    }

    void cancel() {
        const std::lock_guard lock(mutex);
        cancelled = true;
    }
};

DecodePool::DecodePool(const Preprocess& config, int workers, const DecodeOptions& options)
    : config_(config),
      workers_(static_cast<std::size_t>(workers > 0 ? workers : usable_cores())),
      options_(options),
      image_bytes_(static_cast<std::size_t>(config.height) * static_cast<std::size_t>(config.width) * 3) {}

DecodePool::~DecodePool() {
    {
        const std::lock_guard lock(mutex_);
        closed_ = true;
    }
    waiting_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void DecodePool::start() {
    const std::lock_guard lock(mutex_);
    try {
        while (threads_.size() < workers_) threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {
        if (threads_.empty()) {
            throw EngineError(std::string("no thread for decoding can be started (") + error.what() +
                              "): raise the limit of processes");
        }
    }
}

void DecodePool::work() {
    for (;;) {
        std::function<void()> task;
        {
            std::unique_lock lock(mutex_);
            waiting_.wait(lock, [this] { return closed_ || !tasks_.empty(); });
            if (tasks_.empty()) return;
            task = std::move(tasks_.front());
            tasks_.pop_front();
        }
        task();
    }
}

void DecodePool::decode(const ImageInput& image, std::size_t index, Job& job) const {
    // One slot for each image, made before: nothing here may throw, because no one would catch it in this thread.
    ImageFailure& failure = job.slots[index - job.start];
    const std::span<std::uint8_t> pixels(&job.pixels[(index - job.start) * image_bytes_], image_bytes_);
    bool cancelled = false;
    {
        const std::lock_guard lock(job.mutex);
        cancelled = job.cancelled;
    }
    try {
        if (!cancelled) preprocess(image, config_, options_, pixels);
    } catch (const EngineError& error) {
        describe(failure, error.status(), error.what());
    } catch (const std::bad_alloc&) {
        describe(failure, OCE_IMAGE_ERROR, "no memory is left to decode and resize the image; load with a smaller max_pixels");
    } catch (const std::exception& error) {
        describe(failure, OCE_INTERNAL_ERROR, error.what());
    } catch (...) {
        describe(failure, OCE_INTERNAL_ERROR, "an exception of an unknown kind");
    }
    if (failure.status != OCE_OK) std::fill(pixels.begin(), pixels.end(), std::uint8_t{0});
    const std::lock_guard lock(job.mutex);
    if (--job.open == 0) job.done.notify_all();
}

void DecodePool::submit(const std::shared_ptr<Job>& job, std::span<const ImageInput> images) {
    std::size_t submitted = 0;
    try {
        const std::lock_guard lock(mutex_);
        for (; submitted < images.size(); ++submitted) {
            tasks_.emplace_back(
                [this, job, image = &images[submitted], index = job->start + submitted] { decode(*image, index, *job); });
        }
    } catch (...) {  // no memory: the images that no thread will decode must not be waited for
        const std::lock_guard lock(job->mutex);
        job->open -= images.size() - submitted;
        waiting_.notify_all();
        throw;
    }
    waiting_.notify_all();
}

void DecodePool::batches(std::span<const ImageInput> images, std::size_t size, const Batch& batch) {
    start();
    std::deque<std::shared_ptr<Job>> jobs;
    std::size_t next = 0;
    // The pool's threads read the caller's images, so no way out of this function may leave a job open.
    const auto finish = [&] {
        for (const auto& job : jobs) job->cancel();
        for (const auto& job : jobs) job->wait();
    };
    try {
        while (next < images.size() || !jobs.empty()) {
            while (next < images.size() && jobs.size() <= kAhead) {
                const std::size_t count = std::min(size, images.size() - next);
                auto job = std::make_shared<Job>();
                job->start = next;
                job->pixels.resize(count * image_bytes_);
                job->slots.resize(count);
                for (std::size_t offset = 0; offset < count; ++offset) job->slots[offset].index = next + offset;
                job->open = count;
                jobs.push_back(job);
                submit(job, images.subspan(next, count));
                next += count;
            }
            Job& first = *jobs.front();
            first.wait();
            std::vector<ImageFailure> failures;
            std::copy_if(first.slots.begin(), first.slots.end(), std::back_inserter(failures),
                         [](const ImageFailure& slot) { return slot.status != OCE_OK; });
            batch(first.start, first.pixels, failures);
            jobs.pop_front();
        }
    } catch (...) {
        finish();
        throw;
    }
}

}  // namespace oce::core
