// Fuzz target: tokenizer.json, and the ids of a text where it is accepted.
#include <array>

#include "errors.hpp"
#include "scratch_file.hpp"
#include "text/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::filesystem::path file = oce::fuzz::scratch_file("tokenizer.json", data, size);
    oce::core::TokenizerConfig config;
    config.file = "tokenizer.json";
    config.context_length = 8;
    config.vocab_size = 1000;
    try {
        const oce::core::TextTokenizer tokenizer(file, config);
        std::array<std::int32_t, 8> ids{};
        tokenizer.encode("a photo of 2 dogs, isn't it? \xF0\x9F\x90\xB6", ids);
    } catch (const oce::core::EngineError&) {
        return 0;
    }
    return 0;
}
