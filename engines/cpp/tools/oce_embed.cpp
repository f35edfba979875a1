// oce-embed: image files or lines of text to a .npy array of embeddings, with the items of its rows in a text file beside it.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "command_line.hpp"

namespace {

using namespace oce::tools;
namespace fs = std::filesystem;

constexpr std::size_t kChunk = 1024;  // items that are embedded before their rows are written
constexpr std::size_t kShown = 10;    // skipped images that are named on the terminal
constexpr const char* kHelp =
    "usage: oce-embed BUNDLE IMAGE|FOLDER... OUT.npy\n"
    "       oce-embed BUNDLE --list FILE OUT.npy\n"
    "       oce-embed BUNDLE --texts FILE OUT.npy\n\n"
    "Embed image files, or the lines of a text file. OUT.npy gets (N, D) float32; OUT.items.txt names the item of each row, and\n"
    "OUT.skipped.txt the images that could not be read, with the reason.\n\n"
    "  --list FILE       image files, one path a line\n"
    "  --texts FILE      texts, one a line\n"
    "  --engine NAME     auto (default), onnxruntime, openvino\n"
    "  --device NAME     auto (default), cpu, cuda\n"
    "  --threads N       threads of one run of the engine\n"
    "  --workers N       threads that decode images\n"
    "  --max-pixels N    largest width x height of an image\n";

/// Embeddings on their way to a .npy file: the header has room for the number of rows, which is known at the end.
class NpyWriter {
public:
    NpyWriter(fs::path path, std::size_t width) : path_(std::move(path)), temporary_(path_.string() + ".partial"), width_(width) {
        file_.open(temporary_, std::ios::binary | std::ios::trunc);
        write_header();
    }
    ~NpyWriter() {
        if (finished_) return;
        file_.close();
        std::error_code ignored;
        fs::remove(temporary_, ignored);
    }
    NpyWriter(const NpyWriter&) = delete;
    NpyWriter& operator=(const NpyWriter&) = delete;

    void add(const float* row) {
        file_.write(reinterpret_cast<const char*>(row), static_cast<std::streamsize>(width_ * sizeof(float)));
        ++rows_;
        check();
    }
    void finish() {
        file_.seekp(0);
        write_header();
        file_.close();
        check();
        fs::rename(temporary_, path_);
        finished_ = true;
    }
    [[nodiscard]] std::size_t rows() const { return rows_; }

private:
    void write_header() {
        constexpr std::size_t kSize = 128;
        std::string header =
            "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows_) + ", " + std::to_string(width_) + "), }";
        header.resize(kSize - 10 - 1, ' ');
        header += '\n';
        const char start[] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, static_cast<char>(kSize - 10), 0};
        file_.write(start, sizeof(start));
        file_ << header;
        check();
    }
    void check() const {
        if (!file_) throw UsageError("cannot write " + path_.string() + ": " + std::strerror(errno));
    }

    fs::path path_, temporary_;
    std::size_t width_, rows_ = 0;
    std::ofstream file_;
    bool finished_ = false;
};

/// A line for each chunk on a terminal; nothing in a pipe.
class Progress {
public:
    explicit Progress(std::size_t total) : total_(total), shown_(isatty(STDERR_FILENO) != 0) {}
    void done(std::size_t count) const {
        if (!shown_) return;
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
        std::fprintf(stderr, "\r%zu of %zu, %.1f a second%s", count, total_, static_cast<double>(count) / std::max(seconds, 1e-9),
                     count == total_ ? "\n" : "");
    }

private:
    std::size_t total_;
    bool shown_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

std::string one_line(std::string text) {
    std::replace_if(
        text.begin(), text.end(), [](char letter) { return letter == '\n' || letter == '\r' || letter == '\t'; }, ' ');
    return text;
}

void write_lines(const fs::path& path, const std::vector<std::string>& lines) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    for (const std::string& line : lines) file << line << '\n';
    file.close();
    if (!file) throw UsageError("cannot write " + path.string());
}

struct Result {
    std::vector<std::string> kept, skipped, messages;
};

void embed_chunk(const oce::Clip& clip, bool texts, const std::vector<std::string>& items, NpyWriter& writer, Result& result) {
    std::vector<float> embeds(items.size() * clip.embed_dim());
    std::vector<oce::Failure> failures;
    if (texts) {
        clip.encode_texts(std::vector<std::string_view>(items.begin(), items.end()), embeds);
    } else {
        std::vector<oce::Image> images;
        images.reserve(items.size());
        for (const std::string& item : items) images.push_back(oce::Image::path(item));
        clip.encode_images(images, embeds, failures);
    }
    std::size_t failed = 0;
    for (std::size_t row = 0; row < items.size(); ++row) {
        if (failed < failures.size() && failures[failed].index == row) {
            result.messages.push_back(visible(failures[failed++].message));
            result.skipped.push_back(one_line(items[row]) + "\t" + result.messages.back());
        } else {
            result.kept.push_back(one_line(items[row]));
            writer.add(&embeds[row * clip.embed_dim()]);
        }
    }
}

struct Job {
    std::string bundle;
    fs::path out;
    bool texts = false;
    std::vector<std::string> items;
};

Job job_of(const Arguments& arguments) {
    const std::vector<std::string>& words = arguments.positional;
    if (words.size() < 2) throw UsageError("pass a bundle, images and OUT.npy; --help has the options");
    Job job{words.front(), words.back(), arguments.has("texts"), {}};
    const int sources = static_cast<int>(words.size() > 2) + static_cast<int>(job.texts) + static_cast<int>(arguments.has("list"));
    if (sources != 1) throw UsageError("pass image files or folders, or --list FILE, or --texts FILE (one of the three)");
    if (job.out.extension() != ".npy") throw UsageError("the last argument is " + job.out.string() + ": its name must end in .npy");
    if (job.texts) {
        job.items = read_lines(arguments.value("texts"));
        if (arguments.has("max-pixels")) throw UsageError("--max-pixels is for images: leave it out with --texts");
    } else if (arguments.has("list")) {
        job.items = read_items(arguments.value("list"));
    } else {
        for (std::size_t at = 1; at + 1 < words.size(); ++at) {
            const std::vector<std::string> found = find_images(words[at]);
            job.items.insert(job.items.end(), found.begin(), found.end());
        }
    }
    return job;
}

/// A file beside the result, such as out.items.txt.
fs::path beside(fs::path out, const char* suffix) {
    return out.replace_extension(suffix);
}

void check_places(const Job& job, const Arguments& arguments) {
    if (fs::is_directory(job.out)) throw UsageError("cannot write " + job.out.string() + ": it is a folder");
    for (const char* option : {"texts", "list"}) {
        for (const char* suffix : {".npy", ".items.txt", ".skipped.txt"}) {
            std::error_code ignored;
            if (arguments.has(option) && fs::equivalent(arguments.value(option), beside(job.out, suffix), ignored)) {
                throw UsageError("--" + std::string(option) + " names a file that would be overwritten: choose another OUT.npy");
            }
        }
    }
}

int embed(const Arguments& arguments) {
    const Job job = job_of(arguments);
    check_places(job, arguments);
    oce::Options options = engine_options(arguments);
    options.towers = job.texts ? OCE_TEXT : OCE_IMAGE;
    const oce::Clip clip = oce::Clip::open(job.bundle, options);
    NpyWriter writer(job.out, clip.embed_dim());
    const Progress progress(job.items.size());
    Result result;
    for (std::size_t start = 0; start < job.items.size(); start += kChunk) {
        const std::size_t end = std::min(start + kChunk, job.items.size());
        embed_chunk(clip, job.texts,
                    {job.items.begin() + static_cast<std::ptrdiff_t>(start), job.items.begin() + static_cast<std::ptrdiff_t>(end)},
                    writer, result);
        progress.done(end);
    }
    if (writer.rows() == 0) {
        throw UsageError("none of " + std::to_string(job.items.size()) + " inputs could be embedded: " + result.messages.front());
    }
    const fs::path listing = beside(job.out, ".items.txt");
    const fs::path skipped = beside(job.out, ".skipped.txt");
    write_lines(listing, result.kept);
    std::error_code ignored;
    if (result.skipped.empty()) {
        fs::remove(skipped, ignored);
    } else {
        write_lines(skipped, result.skipped);
    }
    writer.finish();
    std::printf("%zu of %zu embedded: %s, %s\n", writer.rows(), job.items.size(), visible(job.out.string()).c_str(),
                visible(listing.string()).c_str());
    if (!result.skipped.empty()) std::printf("%zu could not be read:\n", result.skipped.size());
    for (std::size_t at = 0; at < std::min(kShown, result.messages.size()); ++at)
        std::printf("  %s\n", result.messages[at].c_str());
    if (result.messages.size() > kShown) {
        std::printf("  … and %zu more, see %s\n", result.messages.size() - kShown, visible(skipped.string()).c_str());
    }
    return 0;
}

}  // namespace

int main(int count, char** words) {
    return run([&] {
        std::vector<std::string> valued = kEngineOptions;
        valued.insert(valued.end(), {"list", "texts"});
        const Arguments arguments = parse(count, words, valued, {"help"});
        if (arguments.has("help")) {
            std::fputs(kHelp, stdout);
            return 0;
        }
        return embed(arguments);
    });
}
