#include "exported.h"

#include <algorithm>
#include <cmath>

namespace gen3d {

namespace {

constexpr int64_t kFormat = 1, kLongestSide = 4096;
constexpr char kT1w[] = "t1w";
constexpr double kSmallestRange = 1e-6;

std::vector<int64_t> three(const Json& json, int64_t least, const Path& file) {
  const std::vector<int64_t> sides = json.wholes();
  if (sides.size() != 3 || std::any_of(sides.begin(), sides.end(), [&](int64_t side) { return side < least || side > kLongestSide; }))
    throw UserError(file.string() + ": damaged (a grid has three sides); export the model again.");
  return sides;
}

Calibration calibration_of(const Json& json) {
  Calibration calibration;
  calibration.num_people = json.at("num_people").whole();
  for (const Json& scaling : json.at("scalings").items())
    calibration.scalings.push_back({scaling.at("slope").number(), scaling.at("biases").numbers()});
  return calibration;
}

std::vector<double> softmax(const std::vector<double>& scores, const Scaling& scaling) {
  if (scores.size() != scaling.biases.size()) throw UserError("model.json: damaged (calibration of other classes); export the model again.");
  std::vector<double> odds(scores.size());
  for (size_t i = 0; i < odds.size(); ++i) odds[i] = scaling.slope * scores[i] + scaling.biases[i];
  const double highest = *std::max_element(odds.begin(), odds.end());
  double total = 0;
  for (double& value : odds) total += value = std::exp(value - highest);
  for (double& value : odds) value /= total;
  return odds;
}

}  // namespace

Exported::Exported(const Path& folder) {
  const Path file = folder / "model.json";
  const Json json = read_json(file);
  if (json.at("format").whole() != kFormat)
    throw UserError(file.string() + ": is of another version of gen3d; build this program from that version's sources.");
  torch = json.at("torch").text();
  cpu = json.at("cpu").text();
  kind = json.at("network").text();
  target = json.at("target").at("name").text();
  task = json.at("target").at("task").text();
  classes = json.at("target").at("classes").texts();
  channels = json.at("channels").texts();
  grid = three(json.at("plan").at("shape"), 1, file);
  start = three(json.at("window").at("start"), -kLongestSide, file);
  size = three(json.at("window").at("size"), 1, file);
  intensity = json.at("intensity").text();
  if (!json.at("black").is_null()) black = json.at("black").number();
  takes_age = json.at("takes_age").boolean();
  check_age_years = json.at("check").at("age_years").number();
  for (const Json& entry : json.at("members").items()) {
    Member member;
    member.number = entry.at("member").whole();
    if (!entry.at("package").is_null()) member.package = folder / entry.at("package").at("file").text();
    member.label_mean = entry.at("label").at("mean").number();
    member.label_std = entry.at("label").at("std").number();
    member.tolerance = entry.at("tolerance").number();
    member.calibration = calibration_of(entry.at("calibration"));
    for (const Json& row : entry.at("check_scores").items()) member.check_scores.push_back(row.numbers());
    members.push_back(std::move(member));
  }
  if (members.empty()) throw UserError(file.string() + ": damaged (no members); export the model again.");
  if (intensity != "minmax" && intensity != "zscore" && intensity != "stored")
    throw UserError(file.string() + ": has an intensity rule that this program does not know; build it from that version's sources.");
  const Numbers mask = read_floats(folder / json.at("mask").text(), grid);
  inside_.resize(static_cast<size_t>(count(size)));
  frame(mask.values.data(), inside_.data());
}

std::vector<int64_t> Exported::volume_shape() const {
  return {static_cast<int64_t>(channels.size()), grid[0], grid[1], grid[2]};
}

const Member& Exported::member(int64_t number) const {
  for (const Member& each : members)
    if (each.number == number) return each;
  throw UserError("member " + std::to_string(number) + ": was not exported; see the members in model.json.");
}

void Exported::frame(const float* volume, float* out) const {
  const int64_t first = std::max<int64_t>(0, -start[2]), last = std::min(size[2], grid[2] - start[2]);
  for (int64_t x = 0; x < size[0]; ++x)
    for (int64_t y = 0; y < size[1]; ++y) {
      const int64_t from_x = start[0] + x, from_y = start[1] + y;
      if (from_x < 0 || from_x >= grid[0] || from_y < 0 || from_y >= grid[1] || first >= last) continue;
      const float* row = volume + (from_x * grid[1] + from_y) * grid[2] + start[2];
      std::copy(row + first, row + last, out + (x * size[1] + y) * size[2] + first);
    }
}

Numbers Exported::view(const Numbers& volume) const {
  const int64_t num_channels = static_cast<int64_t>(channels.size()), voxels = count(size);
  Numbers view{{num_channels, size[0], size[1], size[2]}, std::vector<float>(static_cast<size_t>(num_channels * voxels))};
  for (int64_t channel = 0; channel < num_channels; ++channel) {
    float* out = view.values.data() + channel * voxels;
    frame(volume.values.data() + channel * count(grid), out);
    if (channels[static_cast<size_t>(channel)] == kT1w) apply_intensity(out);
  }
  return view;
}

// As gen3d.models.supervised.framing: minmax of the view, or zscore of its voxels inside the brain.
void Exported::apply_intensity(float* values) const {
  const size_t num = inside_.size();
  double centre = 0, scale = 1;
  if (intensity == "minmax") {
    const auto [low, high] = std::minmax_element(values, values + num);
    centre = *low;
    scale = static_cast<double>(*high) - *low;
  } else if (intensity == "zscore") {
    double total = 0, sum = 0, squares = 0;
    for (size_t i = 0; i < num; ++i) total += inside_[i], sum += static_cast<double>(inside_[i]) * values[i];
    centre = sum / std::max(total, 1.0);
    for (size_t i = 0; i < num; ++i) squares += inside_[i] * (values[i] - centre) * (values[i] - centre);
    scale = std::sqrt(squares / std::max(total, 1.0));
  } else {
    return;
  }
  scale = std::max(scale, kSmallestRange);
  const bool blackened = intensity == "zscore" && black.has_value();
  for (size_t i = 0; i < num; ++i)
    values[i] = static_cast<float>(blackened && values[i] == 0 ? *black : (values[i] - centre) / scale);
}

// Values whose every digit both languages make alike: the upper 24 bits of Knuth's multiplicative hash of the place.
Numbers Exported::check_view() const {
  const int64_t num = static_cast<int64_t>(members.at(0).check_scores.size());
  Numbers view{{num, static_cast<int64_t>(channels.size()), size[0], size[1], size[2]}, {}};
  view.values.resize(static_cast<size_t>(count(view.shape)));
  for (size_t i = 0; i < view.values.size(); ++i)
    view.values[i] = static_cast<float>(static_cast<uint32_t>(i + 1) * 2654435761u >> 8) / 16777216.0f;
  return view;
}

std::vector<double> Exported::probabilities(const std::vector<double>& scores, const Calibration& calibration) const {
  const bool two = classes.size() == 2;
  if (task != "ordered" || two) {
    const std::vector<double> of_classes = two ? std::vector<double>{0.0, scores.size() == 2 ? scores[1] - scores[0] : scores.at(0)} : scores;
    return softmax(of_classes, calibration.scalings.at(0));
  }
  // Frank and Hall 2001: probabilities of exceeding each grade, made to fall, and their differences.
  std::vector<double> shares;
  double before = 1;
  for (size_t grade = 0; grade < scores.size(); ++grade) {
    const double exceeding = std::min(before, softmax({0.0, scores[grade]}, calibration.scalings.at(grade))[1]);
    shares.push_back(before - exceeding);
    before = exceeding;
  }
  shares.push_back(before);
  return shares;
}

}  // namespace gen3d
