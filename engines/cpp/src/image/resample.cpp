// The choice among the kernels that resize 8-bit samples.
#include "image/resample.hpp"

#include <cstdlib>
#include <string>
#include <string_view>

#include "errors.hpp"

namespace oce::core {
namespace {

bool always() {
    return true;
}

struct Choice {
    const Kernels* kernels;
    bool (*runs_here)();
};

#if defined(__x86_64__)
bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}
constexpr Choice kChoices[] = {{&kAvx2Kernels, has_avx2}, {&kScalarKernels, always}};
#elif defined(__aarch64__)
constexpr Choice kChoices[] = {{&kNeonKernels, always}, {&kScalarKernels, always}};
#else
constexpr Choice kChoices[] = {{&kScalarKernels, always}};
#endif

}  // namespace

const Kernels& chosen_kernels() {
    const char* variable = std::getenv("OCE_SIMD");
    const std::string_view wanted = variable == nullptr ? "" : variable;
    std::string names;
    for (const Choice& choice : kChoices) {
        if (!choice.runs_here()) continue;
        if (wanted.empty() || wanted == choice.kernels->name) return *choice.kernels;
        names += (names.empty() ? "" : " or ") + std::string(choice.kernels->name);
    }
    throw InputError("OCE_SIMD is '" + std::string(wanted) + "', which does not run here; set it to " + names + ", or unset it");
}

}  // namespace oce::core
