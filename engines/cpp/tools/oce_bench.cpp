// oce-bench: measures calls of the library, one for each line of its input; `python -m benchmarks cpp` drives it in turns with
// Python.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "command_line.hpp"

namespace {

using namespace oce::tools;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kMostCallers = 256;
constexpr const char* kHelp =
    "usage: oce-bench BUNDLE\n\n"
    "Open a bundle, print its engines as a line of JSON, then do what the lines of the input say, and answer each with a line of "
    "JSON:\n\n"
    "  images CALLERS FILE   embed the image files that FILE names, one a line: seconds, items, and the sum of all absolute "
    "values\n"
    "  texts CALLERS FILE    embed the lines of FILE\n"
    "  memory                resident memory of this process now, and its peak, in bytes\n\n"
    "CALLERS threads are started inside the measured time, and each embeds its own part of the items with one call.\n\n"
    "  --engine, --device, --threads, --workers: as for oce-embed\n";

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<float> embed(const oce::Clip& clip, bool texts, std::span<const std::string> items) {
    if (texts) return clip.encode_texts(std::vector<std::string_view>(items.begin(), items.end()));
    std::vector<oce::Image> images;
    images.reserve(items.size());
    for (const std::string& item : items) images.push_back(oce::Image::path(item));
    return clip.encode_images(images);
}

/// Embeddings of equal parts of the items, each by a thread of its own. The first error of a thread is thrown.
std::vector<std::vector<float>> embed_in_threads(const oce::Clip& clip, bool texts, std::span<const std::string> items,
                                                 std::size_t callers) {
    std::vector<std::vector<float>> parts(callers);
    std::vector<std::exception_ptr> errors(callers);
    std::vector<std::thread> threads;
    threads.reserve(callers);
    for (std::size_t number = 0; number < callers; ++number) {
        threads.emplace_back([&, number] {
            const std::size_t start = number * items.size() / callers;
            const std::size_t end = (number + 1) * items.size() / callers;
            try {
                parts[number] = embed(clip, texts, items.subspan(start, end - start));
            } catch (...) {
                errors[number] = std::current_exception();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors) {
        if (error) std::rethrow_exception(error);
    }
    return parts;
}

nlohmann::json measure(const oce::Clip& clip, const std::string& what, const std::string& callers_word, const std::string& file) {
    const auto callers = static_cast<std::size_t>(whole_number("callers", callers_word, 1));
    const std::vector<std::string> items = read_lines(file);
    if (callers > std::min(items.size(), static_cast<std::size_t>(kMostCallers))) {
        throw UsageError(std::to_string(callers) + " callers for " + std::to_string(items.size()) +
                         " items: at most one for each, and " + std::to_string(kMostCallers));
    }
    const Clock::time_point start = Clock::now();
    const std::vector<std::vector<float>> parts = embed_in_threads(clip, what == "texts", items, callers);
    const double seconds = seconds_since(start);
    double sum = 0;
    for (const std::vector<float>& part : parts) {
        for (const float value : part) sum += std::abs(static_cast<double>(value));
    }
    return {{"seconds", seconds}, {"items", items.size()}, {"sum", sum}};
}

/// Bytes of this process: VmRSS and VmHWM of /proc, which has them in units of 1024.
nlohmann::json memory() {
    nlohmann::json answer = {{"resident", 0}, {"peak", 0}};
    std::ifstream file("/proc/self/status");
    for (std::string line; std::getline(file, line);) {
        const char* name = line.starts_with("VmRSS:") ? "resident" : line.starts_with("VmHWM:") ? "peak" : nullptr;
        if (name != nullptr) answer[name] = 1024 * std::stoll(line.substr(6));
    }
    return answer;
}

nlohmann::json answer(const oce::Clip& clip, const std::string& line) {
    const std::size_t first = line.find(' ');
    const std::string what = line.substr(0, first);
    if (line == "memory") return memory();
    const std::size_t second = first == std::string::npos ? first : line.find(' ', first + 1);
    if ((what != "images" && what != "texts") || second == std::string::npos) {
        throw UsageError("the line '" + line + "' is none of: images CALLERS FILE, texts CALLERS FILE, memory");
    }
    return measure(clip, what, line.substr(first + 1, second - first - 1), line.substr(second + 1));
}

void print(const nlohmann::json& line) {
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
}

int serve(const Arguments& arguments) {
    if (arguments.positional.size() != 1) throw UsageError("pass one bundle; --help has the options");
    const Clock::time_point start = Clock::now();
    const oce::Clip clip = oce::Clip::open(arguments.positional.front(), engine_options(arguments));
    print({{"load", seconds_since(start)}, {"image", clip.engine(OCE_IMAGE)}, {"text", clip.engine(OCE_TEXT)}});
    for (std::string line; std::getline(std::cin, line);) print(answer(clip, line));
    return 0;
}

}  // namespace

int main(int count, char** words) {
    return run([&] {
        const Arguments arguments = parse(count, words, kEngineOptions, {"help"});
        if (arguments.has("help")) {
            std::fputs(kHelp, stdout);
            return 0;
        }
        return serve(arguments);
    });
}
