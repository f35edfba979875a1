// Embeds images or texts with an AOTInductor package of a bundle. There is no Python in the process.
//
//   embed_aotinductor BUNDLE image|text INPUT.npy OUTPUT.npy [ROWS] [TARGET]
//
// INPUT.npy   what the tower takes: pixels uint8 (N, H, W, 3) or normalized float32 (N, 3, H, W), or ids int32 (N, L)
// OUTPUT.npy  float32 (N, D) embeddings of unit length
// ROWS        at a time, 32 if left out
// TARGET      cpu if left out, or the GPU the package was built for, such as sm90
//
// README.md beside this file says how to compile it.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

namespace {

[[noreturn]] void fail(const std::string& message) {
  throw std::runtime_error(message);
}

std::uint32_t little_endian(const char* bytes, int count) {
  std::uint32_t value = 0;
  for (int i = count - 1; i >= 0; --i) {
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  }
  return value;
}

// The text between two words; numpy writes each header with the same spaces.
std::optional<std::string> between(const std::string& text, const std::string& before, const std::string& after) {
  const auto found = text.find(before);
  if (found == std::string::npos) return std::nullopt;
  const auto start = found + before.size(), end = text.find(after, start);
  return end == std::string::npos ? std::nullopt : std::optional(text.substr(start, end - start));
}

at::ScalarType dtype_of(const std::string& description, const std::string& path) {
  if (description == "|u1") return at::kByte;
  if (description == "<i4") return at::kInt;
  if (description == "<f4") return at::kFloat;
  fail(path + " holds " + description + ": a tower takes uint8, int32 or float32");
}

// numpy's format, versions 1 to 3: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
at::Tensor read_npy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("cannot read " + path);
  char start[12];
  if (!file.read(start, 8) || std::memcmp(start, "\x93NUMPY", 6) != 0) fail(path + " is no .npy file");
  const int width = start[6] == 1 ? 2 : 4;
  if (!file.read(start + 8, width)) fail(path + " is cut off");
  std::string header(little_endian(start + 8, width), '\0');
  if (!file.read(header.data(), static_cast<std::streamsize>(header.size()))) fail(path + " is cut off");

  const auto description = between(header, "'descr': '", "'");
  const auto shape = between(header, "'shape': (", ")");
  if (!description || !shape || shape->find_first_not_of("0123456789, ") != std::string::npos) {
    fail(path + " has a header that this program does not read: " + header);
  }
  if (header.find("'fortran_order': True") != std::string::npos) {
    fail(path + " is in Fortran order: save numpy.ascontiguousarray of it");
  }
  std::vector<std::int64_t> sizes;
  std::string number;
  for (std::istringstream numbers(*shape); std::getline(numbers >> std::ws, number, ',');) sizes.push_back(std::stoll(number));
  if (sizes.empty() || sizes[0] < 1) fail(path + " holds no row");

  at::Tensor values = at::empty(sizes, dtype_of(*description, path));
  if (!file.read(static_cast<char*>(values.data_ptr()), static_cast<std::streamsize>(values.nbytes()))) {
    fail(path + " is cut off");
  }
  return values;
}

void write_npy(const std::string& path, const at::Tensor& values) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(values.size(0)) + ", " +
      std::to_string(values.size(1)) + "), }";
  header.append(63 - (10 + header.size()) % 64, ' ');  // numbers start at a multiple of 64
  header.push_back('\n');
  const char start[10] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, static_cast<char>(header.size() & 255),
                          static_cast<char>(header.size() >> 8)};
  std::ofstream file(path, std::ios::binary);
  file.write(start, sizeof start);
  file.write(header.data(), static_cast<std::streamsize>(header.size()));
  file.write(static_cast<const char*>(values.data_ptr()), static_cast<std::streamsize>(values.nbytes()));
  if (!file.flush()) fail("cannot write " + path);
}

// The most ids of a caption: towers.text.length.max in the manifest.
std::int64_t longest_caption(const std::filesystem::path& bundle) {
  std::ifstream file(bundle / "manifest.json");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::string length = between(text, "\"keep\"", "}").value_or("");
  const auto most = length.find("\"max\"");
  const auto digits = length.find_first_of("0123456789", most);
  if (most == std::string::npos || digits == std::string::npos) {
    fail("the manifest in " + bundle.string() + " does not say how long captions are");
  }
  return std::stoll(length.substr(digits));
}

// Rows of ids (N, L) for a package that takes packed captions: the ids of each up to its end of text, the first of its highest id, end to
// end, and where each caption starts (N + 1).
std::vector<at::Tensor> packed(const at::Tensor& rows, std::int64_t longest) {
  if (rows.scalar_type() != at::kInt) fail("unmatched dtype, ids are int32");
  if (rows.dim() != 2 || rows.size(1) < 1) fail("ids are not (N, L)");
  if (rows.size(1) > longest) fail("dim value is too large at 1, captions have up to " + std::to_string(longest) + " ids");
  const auto ids = rows.accessor<std::int32_t, 2>();
  std::vector<std::int32_t> kept, starts{0};
  for (std::int64_t row = 0; row < ids.size(0); ++row) {
    const std::int32_t* first = ids[row].data();
    kept.insert(kept.end(), first, std::max_element(first, first + ids.size(1)) + 1);
    starts.push_back(static_cast<std::int32_t>(kept.size()));
  }
  const auto tensor = [](std::vector<std::int32_t>& values) {
    return at::from_blob(values.data(), {static_cast<std::int64_t>(values.size())}, at::kInt).clone();
  };
  return {tensor(kept), tensor(starts)};
}

std::int64_t rows_at_a_time(const std::string& text) {
  const bool digits = text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || text.empty() || text.size() > 9 || text[0] == '0') fail("rows are " + text + ": pass 1 or more");
  return std::stoll(text);
}

void embed(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4 || arguments.size() > 6) {
    fail("usage: embed_aotinductor BUNDLE image|text INPUT.npy OUTPUT.npy [ROWS] [TARGET]");
  }
  const std::string tower = arguments[1];
  if (tower != "image" && tower != "text") fail("tower " + tower + " is neither image nor text");
  const std::int64_t rows = rows_at_a_time(arguments.size() > 4 ? arguments[4] : "32");
  const std::string target = arguments.size() > 5 ? arguments[5] : "cpu";

  const std::filesystem::path folder = std::filesystem::path(arguments[0]) / "engines" / "aotinductor";
  const std::filesystem::path of_packed = folder / (tower + "-packed-" + target + ".pt2");
  const bool packs = std::filesystem::is_regular_file(of_packed);
  const std::filesystem::path package = packs ? of_packed : folder / (tower + "-" + target + ".pt2");
  if (!std::filesystem::is_regular_file(package)) {
    fail(package.string() + " is not there: export the model with --engine aotinductor --target " + target);
  }
  // Without it a package reads whatever it is given, to the end of the array and beyond.
  setenv("AOTI_RUNTIME_CHECK_INPUTS", "1", 1);

  const c10::InferenceMode mode;
  const at::Tensor inputs = read_npy(arguments[2]);
  torch::inductor::AOTIModelPackageLoader loader(package.string());
  const std::int64_t longest = packs ? longest_caption(arguments[0]) : 0;
  const at::Device device(target == "cpu" ? at::kCPU : at::kCUDA);
  std::vector<at::Tensor> parts;
  for (std::int64_t first = 0; first < inputs.size(0); first += rows) {
    const std::int64_t count = std::min(rows, inputs.size(0) - first);
    const at::Tensor part = inputs.narrow(0, first, count);
    std::vector<at::Tensor> given = packs ? packed(part, longest) : std::vector<at::Tensor>{part};
    for (at::Tensor& tensor : given) tensor = tensor.to(device);
    parts.push_back(loader.run(given).at(0).to(at::kCPU));
  }
  write_npy(arguments[3], at::cat(parts).contiguous());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    embed(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    const std::string message = error.what();
    std::cerr << "error: " << message.substr(0, message.find('\n')) << "\n";
    return 1;
  }
  return 0;
}
