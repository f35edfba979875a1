// The rules between the fields of a manifest (engines/schema/consistency.py).
#pragma once

#include <optional>
#include <string>

#include "bundle/json_values.hpp"
#include "bundle/manifest.hpp"

namespace oce::core {

/// The first contradiction between fields, in words, or nothing. Every field must be within its range already.
/// `value` is the same manifest as JSON: it has the fields that serving does not use, too.
std::optional<std::string> contradiction(const Manifest& manifest, const Value& value);

}  // namespace oce::core
