// oce-inspect: a bundle's content, and which of its engines run here; with --verify, the check of its files and embeddings. JSON.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "command_line.hpp"

namespace {

using namespace oce::tools;

constexpr int kGateFailed = 3;
constexpr const char* kHelp =
    "usage: oce-inspect BUNDLE [--verify]\n\n"
    "Print the manifest as JSON, and for each engine whether it runs here, or why not.\n\n"
    "  --verify   check every checksum, and this machine's embeddings, pixels and ids; exit code 3 if one differs\n"
    "  --engine, --device, --threads: as for oce-embed; --engine all verifies every engine\n";

int inspect(const Arguments& arguments) {
    if (arguments.positional.size() != 1) throw UsageError("pass one bundle; --help has the options");
    const oce::Options options = engine_options(arguments);
    const std::string& bundle = arguments.positional.front();
    const std::string json = arguments.has("verify") ? oce::verify(bundle, options) : oce::inspect(bundle, options);
    std::printf("%s\n", json.c_str());
    if (!arguments.has("verify")) return 0;
    return nlohmann::json::parse(json)["passed"].get<bool>() ? 0 : kGateFailed;
}

}  // namespace

int main(int count, char** words) {
    return run([&] {
        const Arguments arguments = parse(count, words, kEngineOptions, {"help", "verify"});
        if (arguments.has("help")) {
            std::fputs(kHelp, stdout);
            return 0;
        }
        return inspect(arguments);
    });
}
