#include "json.h"

#include <charconv>
#include <cmath>

namespace gen3d {

namespace {
constexpr int kDeepest = 64;
}

class JsonParser {
 public:
  JsonParser(std::string_view text, const std::string& source) : text_(text), source_(source) {}

  Json document() {
    Json value = parse("", 0);
    space();
    if (at_ != text_.size()) fail();
    return value;
  }

 private:
  [[noreturn]] void fail() const {
    throw UserError(source_ + ": damaged (not JSON at byte " + std::to_string(at_) + "); export the model again.");
  }

  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) ++at_;
  }

  bool take(char wanted) {
    space();
    if (at_ < text_.size() && text_[at_] == wanted) return ++at_, true;
    return false;
  }

  void need(char wanted) {
    if (!take(wanted)) fail();
  }

  bool word(std::string_view wanted) {
    if (text_.substr(at_, wanted.size()) != wanted) return false;
    at_ += wanted.size();
    return true;
  }

  Json parse(const std::string& place, int depth) {
    space();
    if (at_ >= text_.size() || depth > kDeepest) fail();
    Json value;
    value.source_ = source_ + (place.empty() ? "" : " (" + place + ")");
    const char first = text_[at_];
    if (first == '{') {
      object(value, place, depth);
    } else if (first == '[') {
      list(value, place, depth);
    } else if (first == '"') {
      value.kind_ = Json::Kind::text;
      value.text_ = text();
    } else if (word("true") || word("false")) {
      value.kind_ = Json::Kind::boolean;
      value.boolean_ = first == 't';
    } else if (!word("null")) {
      value.kind_ = Json::Kind::number;
      const auto result = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value.number_);
      if (result.ec != std::errc() || !std::isfinite(value.number_)) fail();
      at_ = static_cast<size_t>(result.ptr - text_.data());
    }
    return value;
  }

  void object(Json& value, const std::string& place, int depth) {
    value.kind_ = Json::Kind::object;
    need('{');
    if (take('}')) return;
    do {
      space();
      if (at_ >= text_.size() || text_[at_] != '"') fail();
      const std::string name = text();
      need(':');
      if (!value.members_.emplace(name, parse(place.empty() ? name : place + "." + name, depth + 1)).second) fail();
    } while (take(','));
    need('}');
  }

  void list(Json& value, const std::string& place, int depth) {
    value.kind_ = Json::Kind::list;
    need('[');
    if (take(']')) return;
    do {
      value.items_.push_back(parse(place, depth + 1));
    } while (take(','));
    need(']');
  }

  unsigned four_digits() {
    unsigned code = 0;
    if (at_ + 4 > text_.size()) fail();
    const auto result = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, code, 16);
    if (result.ptr != text_.data() + at_ + 4) fail();
    at_ += 4;
    return code;
  }

  // A character beyond ASCII, written as one or (surrogates) two groups of four digits, as UTF-8.
  void unicode(std::string& out) {
    uint32_t code = four_digits();
    if (code >= 0xD800 && code < 0xDC00) {
      if (!word("\\u")) fail();
      code = 0x10000 + ((code - 0xD800) << 10) + (four_digits() - 0xDC00);
    }
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0 | code >> 6);
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0 | code >> 12);
      out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    } else {
      out += static_cast<char>(0xF0 | code >> 18);
      out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
      out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    }
    if (code >= 0x80) out += static_cast<char>(0x80 | (code & 0x3F));
  }

  std::string text() {
    static const std::string_view kNames = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
    std::string out;
    for (++at_; at_ < text_.size() && text_[at_] != '"';) {
      if (text_[at_] != '\\') {
        out += text_[at_++];
        continue;
      }
      if (++at_ >= text_.size()) fail();
      const char name = text_[at_++];
      if (name == 'u') {
        unicode(out);
      } else if (const size_t which = kNames.find(name); which != std::string_view::npos) {
        out += kMeant[which];
      } else {
        fail();
      }
    }
    if (at_ >= text_.size()) fail();
    ++at_;
    return out;
  }

  std::string_view text_;
  std::string source_;
  size_t at_ = 0;
};

Json Json::parse(std::string_view text, const std::string& source) { return JsonParser(text, source).document(); }

void Json::wrong(const char* wanted) const {
  throw UserError(source_ + ": damaged (" + wanted + " is needed there); export the model again.");
}

bool Json::has(const std::string& name) const { return kind_ == Kind::object && members_.contains(name); }

const Json& Json::at(const std::string& name) const {
  if (!has(name)) wrong(("an entry \"" + name + "\"").c_str());
  return members_.at(name);
}

const std::map<std::string, Json>& Json::members() const { return kind_ == Kind::object ? members_ : (wrong("an object"), members_); }
const std::vector<Json>& Json::items() const { return kind_ == Kind::list ? items_ : (wrong("a list"), items_); }
const std::string& Json::text() const { return kind_ == Kind::text ? text_ : (wrong("a text"), text_); }
double Json::number() const { return kind_ == Kind::number ? number_ : (wrong("a number"), 0); }
bool Json::boolean() const { return kind_ == Kind::boolean ? boolean_ : (wrong("true or false"), false); }

int64_t Json::whole() const {
  const double value = number();
  if (value != std::floor(value) || std::abs(value) > 9e15) wrong("a whole number");
  return static_cast<int64_t>(value);
}

std::vector<int64_t> Json::wholes() const {
  std::vector<int64_t> values;
  for (const Json& item : items()) values.push_back(item.whole());
  return values;
}

std::vector<double> Json::numbers() const {
  std::vector<double> values;
  for (const Json& item : items()) values.push_back(item.number());
  return values;
}

std::vector<std::string> Json::texts() const {
  std::vector<std::string> values;
  for (const Json& item : items()) values.push_back(item.text());
  return values;
}

std::string json_text(std::string_view text) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') {
      out += '\\';
      out += letter;
    } else if (static_cast<unsigned char>(letter) < 0x20) {
      out += "\\u00";
      out += kDigits[letter >> 4];
      out += kDigits[letter & 15];
    } else {
      out += letter;
    }
  }
  return out + '"';
}

std::string written(double value) {
  if (!std::isfinite(value)) return "null";
  char buffer[32];
  return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr);
}

std::string written(const std::vector<double>& values) {
  std::string out = "[";
  for (size_t i = 0; i < values.size(); ++i) out += (i ? ", " : "") + written(values[i]);
  return out + "]";
}

}  // namespace gen3d
