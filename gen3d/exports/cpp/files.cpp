#include "files.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <sstream>

namespace gen3d {

static_assert(std::endian::native == std::endian::little, "the files hold little-endian numbers");

namespace {

constexpr uint64_t kLongestHeader = 100'000'000;

std::ifstream opened(const Path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!std::filesystem::is_regular_file(file) || !stream)
    throw UserError(file.string() + ": no such file, or it cannot be read.");
  return stream;
}

void read_into(std::ifstream& stream, void* place, uint64_t num_bytes, const Path& file) {
  if (num_bytes && !stream.read(static_cast<char*>(place), static_cast<std::streamsize>(num_bytes)))
    throw UserError(file.string() + ": ends too early; copy it again.");
}

}  // namespace

int64_t count(const std::vector<int64_t>& shape) {
  int64_t total = 1;
  for (const int64_t side : shape) total *= side;
  return total;
}

std::string read_text(const Path& file) {
  std::ifstream stream = opened(file);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

Json read_json(const Path& file) { return Json::parse(read_text(file), file.string()); }

Numbers read_floats(const Path& file, const std::vector<int64_t>& shape) {
  std::ifstream stream = opened(file);
  const uint64_t wanted = static_cast<uint64_t>(count(shape)) * sizeof(float);
  if (const uint64_t size = std::filesystem::file_size(file); size != wanted)
    throw UserError(file.string() + ": holds " + std::to_string(size) + " bytes, and the grid needs " +
                    std::to_string(wanted) + "; export the volumes again.");
  Numbers numbers{shape, std::vector<float>(wanted / sizeof(float))};
  read_into(stream, numbers.values.data(), wanted, file);
  return numbers;
}

Weights read_safetensors(const Path& file) {
  std::ifstream stream = opened(file);
  const uint64_t size = std::filesystem::file_size(file);
  uint64_t length = 0;
  read_into(stream, &length, sizeof length, file);
  if (length > kLongestHeader || length + sizeof length > size)
    throw UserError(file.string() + ": is no safetensors file; give one.");
  std::string header(length, ' ');
  read_into(stream, header.data(), length, file);
  const uint64_t start = sizeof length + length;
  Weights weights;
  const Json described = Json::parse(header, file.string());
  for (const auto& [name, entry] : described.members()) {
    if (name == "__metadata__") continue;
    const std::vector<int64_t> shape = entry.at("shape").wholes(), place = entry.at("data_offsets").wholes();
    for (const int64_t side : shape)
      if (side < 0 || side > (int64_t{1} << 40)) throw UserError(file.string() + ": damaged (" + name + "); copy it again.");
    const uint64_t num_bytes = static_cast<uint64_t>(count(shape)) * sizeof(float);
    if (entry.at("dtype").text() != "F32")
      throw UserError(file.string() + ": " + name + " holds " + entry.at("dtype").text() + ", not 32-bit numbers; convert it.");
    if (place.size() != 2 || place[0] < 0 || place[1] < place[0] ||
        static_cast<uint64_t>(place[1] - place[0]) != num_bytes || start + static_cast<uint64_t>(place[1]) > size)
      throw UserError(file.string() + ": damaged (" + name + "); copy it again.");
    Numbers numbers{shape, std::vector<float>(num_bytes / sizeof(float))};
    stream.seekg(static_cast<std::streamoff>(start + static_cast<uint64_t>(place[0])));
    read_into(stream, numbers.values.data(), num_bytes, file);
    weights.emplace(name, std::move(numbers));
  }
  return weights;
}

void write_safetensors(const Path& file, const Weights& weights) {
  std::string header = "{";
  uint64_t at = 0;
  for (const auto& [name, numbers] : weights) {
    const uint64_t end = at + numbers.values.size() * sizeof(float);
    header += (at || header.size() > 1 ? "," : "") + json_text(name) + ":{\"dtype\":\"F32\",\"shape\":[";
    for (size_t i = 0; i < numbers.shape.size(); ++i) header += (i ? "," : "") + std::to_string(numbers.shape[i]);
    header += "],\"data_offsets\":[" + std::to_string(at) + "," + std::to_string(end) + "]}";
    at = end;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');  // the numbers begin at a multiple of 8 bytes
  const uint64_t length = header.size();
  const Path partial = file.parent_path() / (".partial-" + file.filename().string());
  std::ofstream stream(partial, std::ios::binary | std::ios::trunc);
  stream.write(reinterpret_cast<const char*>(&length), sizeof length);
  stream << header;
  for (const auto& [name, numbers] : weights)
    stream.write(reinterpret_cast<const char*>(numbers.values.data()),
                 static_cast<std::streamsize>(numbers.values.size() * sizeof(float)));
  stream.close();
  if (!stream) throw UserError(file.string() + ": cannot be written; look at the folder and the room on the disk.");
  std::filesystem::rename(partial, file);
}

}  // namespace gen3d
