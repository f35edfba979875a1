// Options, lists of files, and exit codes of the programs.
#include "command_line.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>

namespace oce::tools {
namespace {

namespace fs = std::filesystem;

// Suffixes of picture files, as in the Python package (engines/inputs/image_formats.py). Formats that only Python reads are named
// and skipped, so that no picture is passed over in silence.
const std::set<std::string> kSuffixes = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".avif",
                                         ".tif", ".tiff", ".bmp", ".dib",  ".ppm", ".pgm", ".pbm",  ".pnm",  ".jp2", ".j2k",
                                         ".j2c", ".jpc",  ".jpf", ".jpx",  ".tga", ".psd", ".qoi",  ".pcx",  ".ico"};

bool contains(const std::vector<std::string>& items, const std::string& item) {
    return std::find(items.begin(), items.end(), item) != items.end();
}

std::string lower(std::string text) {
    for (char& letter : text) letter = static_cast<char>(letter >= 'A' && letter <= 'Z' ? letter - 'A' + 'a' : letter);
    return text;
}

void add_images(const fs::path& folder, std::vector<std::string>& found, std::size_t& left_out) {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, fs::directory_options::skip_permission_denied)) {
        const std::string name = entry.path().filename().string();
        std::error_code ignored;
        if (name.starts_with('.')) continue;
        if (entry.is_directory(ignored)) {
            if (!entry.is_symlink(ignored)) add_images(entry.path(), found, left_out);
        } else if (kSuffixes.contains(lower(entry.path().extension().string()))) {
            found.push_back(entry.path().string());
        } else {
            ++left_out;
        }
    }
}

}  // namespace

std::string Arguments::value(const std::string& name, const std::string& otherwise) const {
    const std::vector<std::string> found = all(name);
    return found.empty() ? otherwise : found.back();
}

std::vector<std::string> Arguments::all(const std::string& name) const {
    std::vector<std::string> found;
    for (const auto& [option, value] : values) {
        if (option == name) found.push_back(value);
    }
    return found;
}

bool Arguments::has(const std::string& name) const {
    return std::any_of(values.begin(), values.end(), [&](const auto& item) { return item.first == name; });
}

Arguments parse(int count, char** words, const std::vector<std::string>& valued, const std::vector<std::string>& flags) {
    Arguments arguments;
    bool options = true;
    for (int at = 1; at < count; ++at) {
        const std::string word = words[at];
        if (!options || !word.starts_with("--")) {
            arguments.positional.push_back(word);
            continue;
        }
        if (word == "--") {
            options = false;
            continue;
        }
        const std::size_t equals = word.find('=');
        const std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
        if (contains(flags, name) && equals == std::string::npos) {
            arguments.values.emplace_back(name, "");
        } else if (contains(valued, name)) {
            if (equals == std::string::npos && at + 1 == count) throw UsageError("--" + name + " needs a value");
            arguments.values.emplace_back(name, equals == std::string::npos ? words[++at] : word.substr(equals + 1));
        } else {
            throw UsageError("unknown option " + word + "; --help lists the options");
        }
    }
    return arguments;
}

std::int64_t whole_number(const std::string& option, const std::string& text, std::int64_t least, std::int64_t most) {
    std::size_t end = 0;
    std::int64_t value = 0;
    try {
        value = std::stoll(text, &end);
    } catch (const std::exception&) {
        end = 0;
    }
    if (end == 0 || end != text.size() || value < least || value > most) {
        throw UsageError("--" + option + " is '" + text + "': pass a whole number, " + std::to_string(least) +
                         (value > most ? " to " + std::to_string(most) : " or more"));
    }
    return value;
}

Options engine_options(const Arguments& arguments) {
    Options options;
    options.engine = arguments.value("engine", "auto");
    options.device = arguments.value("device", "auto");
    const auto number = [&](const char* name) { return arguments.has(name) ? whole_number(name, arguments.value(name), 1) : 0; };
    options.threads = static_cast<int>(number("threads"));
    options.workers = static_cast<int>(number("workers"));
    if (arguments.has("max-pixels")) {
        options.max_pixels = whole_number("max-pixels", arguments.value("max-pixels"), 1, std::numeric_limits<std::int64_t>::max());
    }
    options.log = [](void*, oce_log_level level, const char* line) {
        if (level == OCE_LOG_WARNING) std::fprintf(stderr, "%s\n", line);
    };
    return options;
}

std::vector<std::string> find_images(const fs::path& path) {
    std::error_code problem;
    if (!fs::exists(path, problem)) throw UsageError(path.string() + " is not there");
    if (!fs::is_directory(path)) return {path.string()};
    std::vector<std::string> found;
    std::size_t left_out = 0;
    add_images(path, found, left_out);
    if (found.empty()) throw UsageError(path.string() + " has no image file");
    if (left_out > 0) {
        std::fprintf(stderr, "left out in %s: %zu other file%s, not among the image suffixes\n", visible(path.string()).c_str(),
                     left_out, left_out == 1 ? "" : "s");
    }
    std::sort(found.begin(), found.end(),
              [](const std::string& left, const std::string& right) { return fs::path(left) < fs::path(right); });
    return found;
}

std::vector<std::string> read_lines(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    if (!file.is_open() || file.bad() || fs::is_directory(path)) throw UsageError("cannot read " + path.string());
    if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF")) {
        throw UsageError("cannot read " + path.string() + ": it is UTF-16 or UTF-32; save it as UTF-8");
    }
    if (text.find('\0') != std::string::npos)
        throw UsageError("cannot read " + path.string() + " as text: it has a zero byte; save it as UTF-8");
    std::vector<std::string> lines{""};
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] != '\n' && text[at] != '\r') {
            lines.back() += text[at];
            continue;
        }
        if (text[at] == '\r' && at + 1 < text.size() && text[at + 1] == '\n') ++at;
        lines.emplace_back();
    }
    for (std::string& line : lines) {  // files that were joined with `cat` or `type` have marks in the middle
        while (line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
    }
    if (lines.back().empty()) lines.pop_back();
    if (lines.empty()) throw UsageError(path.string() + " has no line");
    return lines;
}

std::vector<std::string> read_items(const fs::path& path) {
    std::vector<std::string> items;
    for (const std::string& line : read_lines(path)) {
        const std::string item = stripped(line);
        if (!item.empty()) items.push_back(item);
    }
    if (items.empty()) throw UsageError(path.string() + " has no line");
    return items;
}

std::string stripped(const std::string& text) {
    constexpr const char* kSpace = " \t\v\f";
    const std::size_t first = text.find_first_not_of(kSpace);
    return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::string visible(const std::string& text) {
    std::string shown;
    for (const char letter : text) {
        const auto byte = static_cast<unsigned char>(letter);
        if (byte >= 0x20 && byte != 0x7F) {
            shown += letter;
        } else {
            char code[5];
            std::snprintf(code, sizeof(code), "\\x%02x", byte);
            shown += code;
        }
    }
    return shown;
}

int run(const std::function<int()>& body) {
    try {
        return body();
    } catch (const EngineError& error) {
        std::fprintf(stderr, "error: %s\n", visible(error.what()).c_str());
    } catch (const UsageError& error) {
        std::fprintf(stderr, "error: %s\n", visible(error.what()).c_str());
    } catch (const fs::filesystem_error& error) {
        std::fprintf(stderr, "error: %s\n", visible(error.what()).c_str());
    } catch (const std::bad_alloc&) {
        std::fprintf(stderr, "error: no memory is left: pass a smaller --max-pixels, or fewer --workers\n");
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", visible(error.what()).c_str());
    }
    return 1;
}

}  // namespace oce::tools
