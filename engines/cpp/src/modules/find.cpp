// The search for an engine module, and the check of its descriptor before any of its functions is called.
#include <dlfcn.h>

#include <cstdlib>

#include "modules/module.hpp"

namespace oce::core {
namespace {

namespace fs = std::filesystem;

/// The folder of the library, or of the program that it is linked into.
fs::path own_folder() {
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(&find_module), &info) == 0 || info.dli_fname == nullptr) return {};
    std::error_code ignored;
    const fs::path file = fs::canonical(info.dli_fname, ignored);
    return file.parent_path();
}

std::vector<fs::path> folders(const Options& options) {
    if (options.module_folder && !options.module_folder->empty()) return {fs::absolute(*options.module_folder)};
    if (const char* variable = std::getenv("OCE_MODULES"); variable != nullptr && *variable != '\0')
        return {fs::absolute(variable)};
    // Relative to the working directory of the first search, because a program may change it later.
    static const fs::path own = own_folder();
    if (own.empty()) return {};
    return {own, own / "openclip_engines", own.parent_path() / "lib" / "openclip_engines"};
}

/// Why a descriptor cannot be used; empty if it can.
std::string mismatch(const oce_module& module, const std::string& kind) {
    if (module.magic != OCE_MODULE_MAGIC) return "is no engine module";
    if (module.interface_version != OCE_MODULE_INTERFACE || module.size < sizeof(oce_module)) {
        return "has version " + std::to_string(module.interface_version) + " of the module interface, and this library has " +
               std::to_string(OCE_MODULE_INTERFACE) + ": build both from one release";
    }
    if (module.kind == nullptr || kind != module.kind) return "is the module of another kind of engine";
    if (module.why_not == nullptr || module.open == nullptr || module.run == nullptr || module.description == nullptr ||
        module.close == nullptr) {
        return "lacks a function";
    }
    return {};
}

FoundModule opened(const fs::path& file, const std::string& kind) {
    void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        const char* problem = dlerror();
        return {nullptr, problem != nullptr ? problem : file.string() + " cannot be opened"};
    }
    const auto* module = static_cast<const oce_module*>(dlsym(handle, OCE_MODULE_SYMBOL));
    if (module == nullptr) return {nullptr, file.string() + " is no engine module: it lacks " + OCE_MODULE_SYMBOL};
    const std::string problem = mismatch(*module, kind);
    if (!problem.empty()) return {nullptr, file.string() + " " + problem};
    return {module, {}};
}

}  // namespace

FoundModule find_module(const std::string& kind, const Options& options) {
    const std::string name = "openclip_engines_" + kind + ".so";
    std::string searched;
    std::string reasons;
    for (const fs::path& folder : folders(options)) {
        const fs::path file = folder / name;
        std::error_code ignored;
        if (!fs::is_regular_file(file, ignored)) {
            searched += (searched.empty() ? "" : ", ") + folder.string();
            continue;
        }
        FoundModule found = opened(file, kind);
        if (found.module != nullptr) return found;
        reasons += (reasons.empty() ? "" : "; ") + found.reason;
    }
    if (!reasons.empty()) return {nullptr, reasons};
    return {nullptr, "its module " + name + " is not in " + (searched.empty() ? "any folder" : searched) +
                         ": install it, or name its folder in OCE_MODULES"};
}

}  // namespace oce::core
