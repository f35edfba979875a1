// oce-classify: zero-shot classification of image files, as a table.
#include <algorithm>
#include <cstdio>
#include <numeric>

#include "command_line.hpp"

namespace {

using namespace oce::tools;

constexpr const char* kHelp =
    "usage: oce-classify BUNDLE IMAGE|FOLDER... --labels 'a dog,a cat'\n\n"
    "Zero-shot classification of image files.\n\n"
    "  --labels A,B,...    labels or captions, separated by commas\n"
    "  --labels-file FILE  one label a line\n"
    "  --template TEXT     prompt with {} for the label; repeatable\n"
    "  --top K             show the K best labels (default 1)\n"
    "  --engine, --device, --threads, --workers, --max-pixels: as for oce-embed\n";

/// Each label once, because a label that stands twice would share its probability.
std::vector<std::string> once(const std::vector<std::string>& labels) {
    std::vector<std::string> kept;
    for (const std::string& label : labels) {
        if (std::find(kept.begin(), kept.end(), label) == kept.end()) {
            kept.push_back(label);
        } else {
            std::fprintf(stderr, "a label counts once: '%s' is there more than once\n", visible(label).c_str());
        }
    }
    return kept;
}

std::vector<std::string> labels_of(const Arguments& arguments) {
    if (arguments.has("labels") == arguments.has("labels-file"))
        throw UsageError("pass --labels 'a dog,a cat' or --labels-file FILE");
    if (arguments.has("labels-file")) return once(read_items(arguments.value("labels-file")));
    std::vector<std::string> labels;
    const std::string text = arguments.value("labels") + ",";
    for (std::size_t start = 0, end = 0; (end = text.find(',', start)) != std::string::npos; start = end + 1) {
        const std::string label = stripped(text.substr(start, end - start));
        if (!label.empty()) labels.push_back(label);
    }
    if (labels.empty()) throw UsageError("there is no label: pass --labels 'a dog,a cat'");
    return once(labels);
}

int classify(const Arguments& arguments) {
    if (arguments.positional.size() < 2) throw UsageError("pass a bundle and images; --help has the options");
    const std::vector<std::string> labels = labels_of(arguments);
    const auto top = static_cast<std::size_t>(whole_number("top", arguments.value("top", "1"), 1));
    std::vector<std::string> files;
    for (std::size_t at = 1; at < arguments.positional.size(); ++at) {
        const std::vector<std::string> found = find_images(arguments.positional[at]);
        files.insert(files.end(), found.begin(), found.end());
    }
    const oce::Clip clip = oce::Clip::open(arguments.positional.front(), engine_options(arguments));
    const std::vector<std::string> templates = arguments.all("template");
    const std::vector<float> label_embeds = clip.encode_labels(std::vector<std::string_view>(labels.begin(), labels.end()),
                                                               std::vector<std::string_view>(templates.begin(), templates.end()));
    std::vector<oce::Image> images;
    images.reserve(files.size());
    for (const std::string& file : files) images.push_back(oce::Image::path(file));
    std::vector<float> embeds(files.size() * clip.embed_dim());
    std::vector<oce::Failure> failures;
    clip.encode_images(images, embeds, failures);
    const std::vector<float> probabilities = clip.probabilities(embeds, label_embeds);
    std::size_t failed = 0;
    std::vector<std::size_t> order(labels.size());
    for (std::size_t row = 0; row < files.size(); ++row) {
        if (failed < failures.size() && failures[failed].index == row) {
            std::fprintf(stderr, "skipped: %s\n", visible(failures[failed++].message).c_str());
            continue;
        }
        const float* values = &probabilities[row * labels.size()];
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t left, std::size_t right) { return values[left] > values[right]; });
        for (std::size_t place = 0; place < std::min(top, labels.size()); ++place) {
            std::printf("%s\t%s\t%.1f%%\n", visible(files[row]).c_str(), visible(labels[order[place]]).c_str(),
                        100.0 * static_cast<double>(values[order[place]]));
        }
    }
    if (failed == files.size()) throw UsageError("none of " + std::to_string(files.size()) + " images could be read");
    return 0;
}

}  // namespace

int main(int count, char** words) {
    return run([&] {
        std::vector<std::string> valued = kEngineOptions;
        valued.insert(valued.end(), {"labels", "labels-file", "template", "top"});
        const Arguments arguments = parse(count, words, valued, {"help"});
        if (arguments.has("help")) {
            std::fputs(kHelp, stdout);
            return 0;
        }
        return classify(arguments);
    });
}
