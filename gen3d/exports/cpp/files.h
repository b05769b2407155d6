// Files that are exchanged with Python: raw 32-bit numbers, and named tensors in safetensors files.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "json.h"

namespace gen3d {

using Path = std::filesystem::path;

// Numbers of a tensor in C order; `shape` is empty for one number.
struct Numbers {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

using Weights = std::map<std::string, Numbers>;

int64_t count(const std::vector<int64_t>& shape);

// All throw UserError, naming the file.
std::string read_text(const Path& file);
Json read_json(const Path& file);
// Little-endian float32; exactly as many as `shape` has.
Numbers read_floats(const Path& file, const std::vector<int64_t>& shape);

// safetensors: 8 bytes length, a JSON header of that length, the numbers. Only F32 is known.
Weights read_safetensors(const Path& file);
void write_safetensors(const Path& file, const Weights& weights);

}  // namespace gen3d
