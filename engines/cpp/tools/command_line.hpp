// What the three programs share: options of the command line, lists of files, and exit codes.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "openclip_engines/clip.hpp"

namespace oce::tools {

/// A mistake on the command line; the program ends with exit code 1 and the sentence.
class UsageError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// A parsed command line.
struct Arguments {
    std::vector<std::string> positional;
    std::vector<std::pair<std::string, std::string>> values;  // option without its dashes, in order
    [[nodiscard]] std::string value(const std::string& name, const std::string& otherwise = {}) const;
    [[nodiscard]] std::vector<std::string> all(const std::string& name) const;
    [[nodiscard]] bool has(const std::string& name) const;
};

/// Split a command line into positional arguments and options. `valued` and `flags` are the options that exist.
Arguments parse(int count, char** words, const std::vector<std::string>& valued, const std::vector<std::string>& flags);

/// Options of every program: --engine, --device, --threads, --workers, --max-pixels.
inline const std::vector<std::string> kEngineOptions = {"engine", "device", "threads", "workers", "max-pixels"};
Options engine_options(const Arguments& arguments);

/// A whole number of at least `least`; throws UsageError.
std::int64_t whole_number(const std::string& option, const std::string& text, std::int64_t least,
                          std::int64_t most = 2'147'483'647);

/// Image files: the file itself, or those of a folder at any depth by suffix, sorted, without hidden ones.
/// A line on standard error tells how many other files were left out.
std::vector<std::string> find_images(const std::filesystem::path& path);

/// The lines of a text file in UTF-8, blank ones too, as the Python package counts them: \n, \r\n and \r end one.
std::vector<std::string> read_lines(const std::filesystem::path& path);

/// The lines that are not blank, without white space around them.
std::vector<std::string> read_items(const std::filesystem::path& path);

/// A text without spaces and tabs at its ends.
std::string stripped(const std::string& text);

/// A text for the terminal: control characters as \xNN, because names of files may hold anything.
std::string visible(const std::string& text);

/// Run a program's body; errors that a user can mend become one line and exit code 1.
int run(const std::function<int()>& body);

}  // namespace oce::tools
