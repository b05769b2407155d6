// An exported classifier as model.json describes it: how a volume becomes what its network takes, and scores an answer.
#pragma once

#include <array>
#include <optional>

#include "files.h"

namespace gen3d {

// probabilities = softmax(slope * scores + biases) (Guo et al. 2017; of two classes Platt 1999).
struct Scaling {
  double slope = 1;
  std::vector<double> biases;
};

// One scaling for all categories; one per grade that can be exceeded where classes are ordered; none for a number.
struct Calibration {
  std::vector<Scaling> scalings;
  int64_t num_people = 0;  // that it was fitted on; 0: probabilities are those of the network
};

struct Member {
  int64_t number = 0;
  Path package;
  Calibration calibration;
  double label_mean = 0, label_std = 1;            // of a number: scores are standardised
  std::vector<std::vector<double>> check_scores;  // what the network of Python gives of check_view
  double tolerance = 0;                           // of their comparison
};

class Exported {
 public:
  explicit Exported(const Path& folder);

  // Volume [channels, grid] in stored units to what the network takes [channels, size]: framed, then the intensity rule on
  // the T1w channel; other channels are measurements and stay as they are.
  Numbers view(const Numbers& volume) const;
  // Values of the check that every package is compared on when it is loaded, [num, channels, size].
  Numbers check_view() const;
  // Of one member's scores: a probability per class.
  std::vector<double> probabilities(const std::vector<double>& scores, const Calibration& calibration) const;
  // Shape [channels, grid] of a volume file.
  std::vector<int64_t> volume_shape() const;
  const Member& member(int64_t number) const;

  std::string torch, cpu, kind, target, task, intensity;
  std::vector<std::string> classes, channels;
  std::vector<int64_t> grid, start, size;
  bool takes_age = false;
  std::optional<double> black;  // what zscore makes of the background
  double check_age_years = 0;
  std::vector<Member> members;

 private:
  // The window of one volume [grid] as a row of voxels [size]; what lies outside the grid is 0.
  void frame(const float* volume, float* out) const;
  void apply_intensity(float* values) const;

  std::vector<float> inside_;  // brain mask of the view
};

}  // namespace gen3d
