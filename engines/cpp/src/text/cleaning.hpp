// open_clip's cleaning of texts.
#pragma once

#include <string>
#include <string_view>

#include "bundle/manifest.hpp"

namespace oce::core {

/// The text as the function of that name in engines.inputs.tokenizer cleans it; bytes that are no UTF-8 become U+FFFD or, as ftfy
/// has it, what the characters around them suggest. The result holds no surrogates.
std::u32string clean(std::string_view bytes, Clean kind);

}  // namespace oce::core
