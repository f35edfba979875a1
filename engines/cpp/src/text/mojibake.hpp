// ftfy's repair of texts that were decoded in the wrong encoding.
#pragma once

#include <string>

namespace oce::core {

/// `ftfy.fix_encoding`
void fix_encoding(std::u32string& text);

/// Replace C1 controls by what Windows-1252 has in their places.
void fix_c1_controls(std::u32string& text);

}  // namespace oce::core
