// Comparisons of this machine's results with a bundle's reference file.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "bundle/npz.hpp"
#include "modules/module.hpp"

namespace oce::core {

using Arrays = std::map<std::string, NpyArray>;

/// The reference file's arrays; throws BundleError where it is missing or damaged.
Arrays read_reference(const std::filesystem::path& bundle, const Manifest& manifest);

/// An array of the reference file with this dtype and rank; throws std::invalid_argument.
const NpyArray& array_of(const Arrays& arrays, const std::string& name, const std::string& dtype, std::size_t rank);

/// The parity gate with the engines of one kind (or `auto`), as one row of the report; its "passed" is the verdict.
nlohmann::json compare_embeddings(const std::filesystem::path& bundle, const Manifest& manifest, const Arrays& arrays,
                                  const Options& options);

/// The pixels of the bundle's hard pictures; null where it has none.
nlohmann::json compare_pixels(const Manifest& manifest, const Arrays& arrays);

/// The ids of the bundle's hard captions; null where it has none.
nlohmann::json compare_ids(const std::filesystem::path& bundle, const Manifest& manifest, const Arrays& arrays);

}  // namespace oce::core
