// Words of a command line: places first, then --name VALUE or --flag.
#pragma once

#include <charconv>
#include <set>
#include <string>
#include <vector>

#include "json.h"

namespace gen3d {

class Options {
 public:
  Options(int argc, char** argv, const std::set<std::string>& valued, const std::set<std::string>& flags) {
    for (int i = 1; i < argc; ++i) {
      const std::string word = argv[i];
      if (!word.starts_with("--")) {
        places_.push_back(word);
      } else if (flags.contains(word)) {
        given_[word] = "";
      } else if (valued.contains(word) && i + 1 < argc) {
        given_[word] = argv[++i];
      } else {
        throw UserError(word + ": no such option, or its value is missing; see the first lines of the program's source.");
      }
    }
  }

  const std::vector<std::string>& places() const { return places_; }
  bool has(const std::string& name) const { return given_.contains(name); }
  std::string text(const std::string& name, const std::string& otherwise = "") const {
    return has(name) ? given_.at(name) : otherwise;
  }

  double number(const std::string& name, double otherwise) const {
    if (!has(name)) return otherwise;
    const std::string& text = given_.at(name);
    double value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    if (result.ec != std::errc() || result.ptr != text.data() + text.size())
      throw UserError(name + " " + text + ": not a number.");
    return value;
  }

  int whole(const std::string& name, int otherwise) const {
    const double value = number(name, otherwise);
    if (value < 0 || value > 1e6 || value != static_cast<int>(value))
      throw UserError(name + " " + given_.at(name) + ": not a whole number from 0 to a million.");
    return static_cast<int>(value);
  }

 private:
  std::vector<std::string> places_;
  std::map<std::string, std::string> given_;
};

}  // namespace gen3d
