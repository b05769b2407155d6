// Applies an exported classifier to volumes, without Python.
//
//   gen3d_predict EXPORTED [KEY ...] [--volumes FOLDER] [--member N] [--threads N]
//
// EXPORTED is a folder of `gen3d export-model`. FOLDER (by default EXPORTED/volumes) holds index.json and one raw file of
// little-endian float32 [channels, x, y, z] in stored units per scan; KEY chooses scans of it, by default all. A scan is
// judged by the members that index.json names for it, those that never saw the person, or by --member alone.
// Prints one JSON object: per scan the class, the probability of each class, and the scores of every member that judged it.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>

#include "exported.h"
#include "options.h"

namespace gen3d {
namespace {

using Loader = torch::inductor::AOTIModelPackageLoader;

at::Tensor tensor_of(const Numbers& numbers) {
  return at::from_blob(const_cast<float*>(numbers.values.data()), numbers.shape, at::kFloat);
}

// A member's compiled package, compared with the network that it was compiled from when it is loaded.
class Package {
 public:
  Package(const Exported& model, const Member& member) : model_(model), member_(member) {
    if (member.package.empty() || !std::filesystem::is_regular_file(member.package))
      throw UserError("member " + std::to_string(member.number) + ": no compiled package of it is there; export the model again.");
    loader_ = std::make_unique<Loader>(member.package.string());
    check();
  }

  std::vector<std::vector<double>> scores(const Numbers& views, double age_years) const {
    std::vector<at::Tensor> inputs{tensor_of(views)};
    if (model_.takes_age) inputs.push_back(at::full({views.shape[0]}, age_years, at::kFloat));
    const at::Tensor out = loader_->run(inputs).at(0).to(at::kDouble).contiguous();
    std::vector<std::vector<double>> rows;
    for (int64_t row = 0; row < out.size(0); ++row) {
      const double* first = out.const_data_ptr<double>() + row * out.size(1);
      rows.emplace_back(first, first + out.size(1));
    }
    return rows;
  }

  double difference() const { return difference_; }

 private:
  void check() {
    const auto now = scores(model_.check_view(), model_.check_age_years);
    const auto& then = member_.check_scores;
    for (size_t i = 0; i < then.size(); ++i)
      for (size_t j = 0; j < then[i].size(); ++j) difference_ = std::max(difference_, std::abs(now.at(i).at(j) - then[i][j]));
    if (!(difference_ <= member_.tolerance))
      throw UserError(member_.package.string() + ": gives other scores here than the network it was compiled from (by " +
                      written(difference_) + "); export the model again on this machine.");
  }

  const Exported& model_;
  const Member& member_;
  std::unique_ptr<Loader> loader_;
  double difference_ = 0;
};

class Predictor {
 public:
  explicit Predictor(const Path& folder) : model(folder) {
    if (model.torch.substr(0, model.torch.find('+')) != TORCH_VERSION)
      throw UserError(folder.string() + ": was compiled by torch " + model.torch + ", and this program is built with " TORCH_VERSION
                      "; export the model again with this torch, or build the program with that one.");
    if (const std::string here = at::get_cpu_capability(); model.cpu != here)
      throw UserError(folder.string() + ": was compiled for a processor with " + model.cpu + ", and this one has " + here +
                      "; export the model again on this machine.");
  }

  std::string answer(const Json& scan, const Path& volumes, int64_t only) {
    const Numbers volume = read_floats(volumes / scan.at("file").text(), model.volume_shape());
    Numbers view = model.view(volume);
    view.shape.insert(view.shape.begin(), 1);
    const Json& age = scan.at("age_years");
    const double age_years = age.is_null() ? std::nan("") : age.number();  // networks that take an age know what to do without
    std::vector<int64_t> judges = only >= 0 ? std::vector<int64_t>{only} : scan.at("members").wholes();
    if (judges.empty())
      throw UserError(scan.at("key").text() + ": every exported member learned from this person; choose one with --member.");
    std::vector<std::vector<double>> scores;
    for (const int64_t judge : judges) scores.push_back(package(judge).scores(view, age_years)[0]);
    return described(scan.at("key").text(), judges, scores);
  }

  const Exported model;

  std::string packages_described() const {
    std::string out;
    for (const auto& [number, package] : packages_) {
      const Calibration& calibration = model.member(number).calibration;
      out += (out.empty() ? "" : ", ") + ("{\"member\": " + std::to_string(number)) + ", \"difference_to_python\": " +
             written(package->difference()) + ", \"calibrated_on\": " + std::to_string(calibration.num_people);
      if (!calibration.scalings.empty()) out += ", \"temperature\": " + written(1 / calibration.scalings[0].slope);
      out += "}";
    }
    return "[" + out + "]";
  }

 private:
  Package& package(int64_t number) {
    auto& kept = packages_[number];
    if (!kept) kept = std::make_unique<Package>(model, model.member(number));
    return *kept;
  }

  std::string described(const std::string& key, const std::vector<int64_t>& judges, const std::vector<std::vector<double>>& scores) const {
    std::string out = "{\"key\": " + json_text(key) + ", \"members\": [";
    for (size_t i = 0; i < judges.size(); ++i) out += (i ? ", " : "") + std::to_string(judges[i]);
    out += "], \"scores\": [";
    for (size_t i = 0; i < scores.size(); ++i) out += (i ? ", " : "") + written(scores[i]);
    out += "], ";
    if (model.task == "latent") return out.substr(0, out.size() - 2) + "}";
    if (model.task == "number") {
      double sum = 0;
      for (size_t i = 0; i < scores.size(); ++i) {
        const Member& member = model.member(judges[i]);
        sum += scores[i].at(0) * member.label_std + member.label_mean;
      }
      return out + "\"predicted\": " + written(sum / static_cast<double>(scores.size())) + "}";
    }
    std::vector<double> mean(model.classes.size(), 0.0);
    for (size_t i = 0; i < scores.size(); ++i) {
      const std::vector<double> shares = model.probabilities(scores[i], model.member(judges[i]).calibration);
      for (size_t c = 0; c < mean.size(); ++c) mean[c] += shares.at(c) / static_cast<double>(scores.size());
    }
    const size_t highest = static_cast<size_t>(std::max_element(mean.begin(), mean.end()) - mean.begin());
    out += "\"class\": " + json_text(model.classes[highest]) + ", \"probabilities\": {";
    for (size_t c = 0; c < mean.size(); ++c) out += (c ? ", " : "") + json_text(model.classes[c]) + ": " + written(mean[c]);
    return out + "}}";
  }

  std::map<int64_t, std::unique_ptr<Package>> packages_;
};

void predict(int argc, char** argv) {
  const Options options(argc, argv, {"--volumes", "--member", "--threads"}, {});
  if (options.places().empty()) throw UserError("usage: gen3d_predict EXPORTED [KEY ...] [--volumes FOLDER] [--member N] [--threads N]");
  if (const int threads = options.whole("--threads", 0)) at::set_num_threads(threads);
  const c10::InferenceMode guard;
  const Path folder = options.places()[0];
  Predictor predictor(folder);
  const Path volumes = options.text("--volumes", (folder / "volumes").string());
  const Json index = read_json(volumes / "index.json");
  if (index.at("shape").wholes() != predictor.model.volume_shape() || index.at("channels").texts() != predictor.model.channels)
    throw UserError((volumes / "index.json").string() + ": volumes of another grid or of other channels than the model's; export them with this model.");
  std::set<std::string> wanted(options.places().begin() + 1, options.places().end());
  const bool all = wanted.empty();
  std::string scans;
  for (const Json& scan : index.at("scans").items())
    if (all || wanted.erase(scan.at("key").text()))
      scans += (scans.empty() ? "\n  " : ",\n  ") + predictor.answer(scan, volumes, options.has("--member") ? options.whole("--member", 0) : -1);
  if (!wanted.empty()) throw UserError(*wanted.begin() + ": no scan of this name in " + (volumes / "index.json").string() + ".");
  std::cout << "{\"network\": " << json_text(predictor.model.kind) << ", \"target\": " << json_text(predictor.model.target)
            << ", \"torch\": " << json_text(TORCH_VERSION) << ",\n \"packages\": " << predictor.packages_described()
            << ",\n \"scans\": [" << scans << "]}\n";
}

}  // namespace
}  // namespace gen3d

int main(int argc, char** argv) {
  try {
    gen3d::predict(argc, argv);
  } catch (const gen3d::UserError& error) {
    std::cerr << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {  // LibTorch's own messages are long; their first line says it
    std::cerr << "gen3d_predict: " << std::string(error.what()).substr(0, std::string(error.what()).find('\n')) << "\n";
    return 1;
  }
  return 0;
}
