// JSON as the files of an exported model need it: a reader of whole documents, and the writing of texts and numbers.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace gen3d {

// What a user can mend: shown as one sentence.
struct UserError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Json {
 public:
  enum class Kind { null, boolean, number, text, list, object };

  // Throws UserError, naming `source`, for text that is not one JSON document.
  static Json parse(std::string_view text, const std::string& source);

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::null; }
  bool has(const std::string& name) const;
  // Parts, and values of the kind asked for; UserError where there is another one.
  const Json& at(const std::string& name) const;
  const std::map<std::string, Json>& members() const;
  const std::vector<Json>& items() const;
  const std::string& text() const;
  double number() const;
  int64_t whole() const;
  bool boolean() const;
  std::vector<int64_t> wholes() const;
  std::vector<double> numbers() const;
  std::vector<std::string> texts() const;

 private:
  friend class JsonParser;
  [[noreturn]] void wrong(const char* wanted) const;

  Kind kind_ = Kind::null;
  bool boolean_ = false;
  double number_ = 0;
  std::string text_;
  std::string source_;  // file and place in it, for messages
  std::vector<Json> items_;
  std::map<std::string, Json> members_;
};

std::string json_text(std::string_view text);
// Enough digits to read the same double again; null for what JSON cannot hold.
std::string written(double value);
std::string written(const std::vector<double>& values);

}  // namespace gen3d
