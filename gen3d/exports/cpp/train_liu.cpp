// Trains the 3D network of Liu et al. (2022, Sci Rep 12:17106; gen3d.nets.classifiers.liu, instance normalisation) by Adam and
// cross-entropy, from given weights on given batches.
//
//   gen3d_train_liu WEIGHTS.safetensors VOLUMES BATCHES.json [--rate .0018] [--threads N] [--loader] [--write FILE.safetensors]
//
// VOLUMES is a folder with index.json and raw float32 files, one per scan, whose `label` is a class number. BATCHES.json is a
// list of batches, each a list of rows of index.json. With --loader, the files of a batch are read while the one before is
// computed; otherwise all are read before the first step. Prints JSON: the loss of every step, seconds and CPU seconds of the
// steps, peak memory of the process, and the scores of every scan after the last step.
#include <sys/resource.h>
#include <torch/torch.h>

#include <chrono>
#include <cmath>
#include <future>
#include <iostream>

#include "files.h"
#include "options.h"

namespace gen3d {
namespace {

namespace F = torch::nn::functional;
using torch::Tensor;

// A block's convolution, and the max pooling behind it.
struct Block {
  const char* name;
  int64_t kernel, dilation, padding, pool;
};
constexpr Block kBlocks[] = {{"block1", 1, 1, 0, 3}, {"block2", 3, 2, 0, 3}, {"block3", 5, 2, 2, 3}, {"block4", 3, 2, 1, 5}};
constexpr const char* kLinears[] = {"embedding", "scores.1", "scores.3"};

// The network as a function of its named weights, so that the file's names are the only ones.
class Liu {
 public:
  Liu(const Weights& weights, const Path& file) {
    for (const Block& block : kBlocks) take(weights, file, std::string("stages.") + block.name + ".0", 5, block.kernel);
    for (const char* linear : kLinears) take(weights, file, std::string("stages.head.") + linear, 2, 0);
    if (named_.size() != weights.size())
      throw UserError(file.string() + ": holds weights of another network than liu with instance normalisation; give that one's.");
  }

  Tensor scores(Tensor x) const {
    for (const Block& block : kBlocks) {
      const std::string name = std::string("stages.") + block.name + ".0";
      x = F::conv3d(x, at(name + ".weight"), F::Conv3dFuncOptions().bias(at(name + ".bias")).padding(block.padding).dilation(block.dilation));
      x = torch::relu(F::instance_norm(x));
      x = F::max_pool3d(x, F::MaxPool3dFuncOptions(block.pool).stride(2));
    }
    x = x.flatten(1);
    for (size_t i = 0; i < std::size(kLinears); ++i) {
      const std::string name = std::string("stages.head.") + kLinears[i];
      x = F::linear(i ? torch::relu(x) : x, at(name + ".weight"), at(name + ".bias"));
    }
    return x;
  }

  std::vector<Tensor> parameters() const {
    std::vector<Tensor> all;
    for (const auto& [name, tensor] : named_) all.push_back(tensor);
    return all;
  }

  Weights weights() const {
    Weights out;
    for (const auto& [name, tensor] : named_) {
      const Tensor kept = tensor.detach().contiguous();
      const float* first = kept.const_data_ptr<float>();
      out[name] = {kept.sizes().vec(), {first, first + kept.numel()}};
    }
    return out;
  }

 private:
  const Tensor& at(const std::string& name) const { return named_.at(name); }

  void take(const Weights& weights, const Path& file, const std::string& name, size_t rank, int64_t kernel) {
    for (const char* part : {".weight", ".bias"}) {
      const auto found = weights.find(name + part);
      const bool is_weight = part[1] == 'w';
      if (found == weights.end() || found->second.shape.size() != (is_weight ? rank : 1) ||
          (is_weight && kernel && found->second.shape.back() != kernel))
        throw UserError(file.string() + ": " + name + part + " is missing or of another shape; give the weights of a liu network.");
      const Numbers& numbers = found->second;
      const Tensor read = torch::from_blob(const_cast<float*>(numbers.values.data()), numbers.shape).clone();
      named_.emplace(found->first, read.set_requires_grad(true));
    }
  }

  std::map<std::string, Tensor> named_;
};

// Adam (Kingma & Ba 2015) in the operations of Python's torch.optim.Adam. LibTorch's own class rounds the running mean of the
// gradient twice where Python rounds once (lerp), and training carries rounding on.
class Adam {
 public:
  Adam(std::vector<Tensor> parameters, double rate) : parameters_(std::move(parameters)), rate_(rate) {
    for (const Tensor& each : parameters_) {
      means_.push_back(torch::zeros_like(each));
      squares_.push_back(torch::zeros_like(each));
    }
  }

  void zero_grad() {
    for (Tensor& each : parameters_) each.mutable_grad().reset();
  }

  void step() {
    const torch::NoGradGuard guard;
    ++steps_;
    const double rate = rate_ / (1 - std::pow(kBeta1, steps_)), root = std::sqrt(1 - std::pow(kBeta2, steps_));
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const Tensor gradient = parameters_[i].grad();
      means_[i].lerp_(gradient, 1 - kBeta1);
      squares_[i].mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
      parameters_[i].addcdiv_(means_[i], (squares_[i].sqrt() / root).add_(kEpsilon), -rate);
    }
  }

 private:
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
  std::vector<Tensor> parameters_, means_, squares_;
  double rate_, steps_ = 0;
};

struct Batch {
  Tensor volumes, labels;
};

class Volumes {
 public:
  explicit Volumes(const Path& folder) : folder_(folder), index_(read_json(folder / "index.json")), shape_(index_.at("shape").wholes()) {
    if (shape_.size() != 4) throw UserError((folder / "index.json").string() + ": damaged (a shape has four sides); export the volumes again.");
  }

  int64_t size() const { return static_cast<int64_t>(index_.at("scans").items().size()); }

  void keep_all() {
    for (int64_t row = 0; row < size(); ++row) kept_.push_back(read(row));
  }

  Batch batch(const std::vector<int64_t>& rows) const {
    std::vector<Tensor> volumes;
    std::vector<int64_t> labels;
    for (const int64_t row : rows) {
      if (row < 0 || row >= size()) throw UserError("row " + std::to_string(row) + ": no such scan in " + (folder_ / "index.json").string() + ".");
      volumes.push_back(kept_.empty() ? read(row) : kept_[static_cast<size_t>(row)]);
      labels.push_back(index_.at("scans").items()[static_cast<size_t>(row)].at("label").whole());
    }
    return {torch::stack(volumes), torch::tensor(labels)};
  }

 private:
  Tensor read(int64_t row) const {
    const Numbers numbers = read_floats(folder_ / index_.at("scans").items().at(static_cast<size_t>(row)).at("file").text(), shape_);
    return torch::from_blob(const_cast<float*>(numbers.values.data()), numbers.shape).clone();
  }

  Path folder_;
  Json index_;
  std::vector<int64_t> shape_;
  std::vector<Tensor> kept_;
};

double cpu_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec); };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

double peak_bytes() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  return 1024.0 * static_cast<double>(used.ru_maxrss);
}

void train(int argc, char** argv) {
  const Options options(argc, argv, {"--rate", "--threads", "--write"}, {"--loader"});
  if (options.places().size() != 3)
    throw UserError("usage: gen3d_train_liu WEIGHTS.safetensors VOLUMES BATCHES.json [--rate R] [--threads N] [--loader] [--write FILE]");
  if (const int threads = options.whole("--threads", 0)) torch::set_num_threads(threads);
  const Path file = options.places()[0];
  const Liu network(read_safetensors(file), file);
  Volumes volumes(options.places()[1]);
  std::vector<std::vector<int64_t>> batches;
  const Json listed = read_json(options.places()[2]);
  for (const Json& batch : listed.items()) batches.push_back(batch.wholes());
  if (!options.has("--loader")) volumes.keep_all();

  Adam adam(network.parameters(), options.number("--rate", 1.8e-3));
  std::vector<double> losses;
  const auto began = std::chrono::steady_clock::now();
  const double cpu_before = cpu_seconds();
  std::future<Batch> next;
  for (size_t step = 0; step < batches.size(); ++step) {
    const Batch batch = next.valid() ? next.get() : volumes.batch(batches[step]);
    if (options.has("--loader") && step + 1 < batches.size())
      next = std::async(std::launch::async, [&, step] { return volumes.batch(batches[step + 1]); });
    adam.zero_grad();
    const Tensor loss = F::cross_entropy(network.scores(batch.volumes), batch.labels);
    loss.backward();
    adam.step();
    losses.push_back(loss.item<double>());
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count(), cpu = cpu_seconds() - cpu_before;

  std::string scores;
  for (int64_t row = 0; row < volumes.size(); ++row) {
    const torch::NoGradGuard guard;
    const Tensor out = network.scores(volumes.batch({row}).volumes).to(torch::kDouble).contiguous();
    scores += (row ? ", " : "") + written(std::vector<double>(out.const_data_ptr<double>(), out.const_data_ptr<double>() + out.numel()));
  }
  if (options.has("--write")) write_safetensors(options.text("--write"), network.weights());
  std::cout << "{\"losses\": " << written(losses) << ", \"seconds\": " << written(seconds) << ", \"cpu_seconds\": " << written(cpu)
            << ", \"peak_bytes\": " << written(peak_bytes()) << ", \"threads\": " << torch::get_num_threads() << ", \"scores\": [" << scores
            << "]}\n";
}

}  // namespace
}  // namespace gen3d

int main(int argc, char** argv) {
  try {
    gen3d::train(argc, argv);
  } catch (const gen3d::UserError& error) {
    std::cerr << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {  // LibTorch's own messages are long; their first line says it
    std::cerr << "gen3d_train_liu: " << std::string(error.what()).substr(0, std::string(error.what()).find('\n')) << "\n";
    return 1;
  }
  return 0;
}
