// The runner that `python -m runtime bench --device adb` starts on a phone: a prompt in, so many tokens out, and then
// executorch's own statistics. executorch's example runners want an image or a clip, or programs of one method.
//
// A program takes a prompt in steps of at most `get_max_step` positions, and executorch prefills each input in one, so
// the prompt's tokens are cut. The model is loaded by generate(), which is what its statistics call loading.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <executorch/extension/llm/runner/llm_runner_helper.h>
#include <executorch/extension/llm/runner/multimodal_input.h>
#include <executorch/extension/llm/runner/multimodal_runner.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/threadpool/threadpool.h>

namespace llm = ::executorch::extension::llm;
using ::executorch::extension::Module;
using ::executorch::runtime::Error;

namespace {

using Options = std::map<std::string, std::string>;

[[noreturn]] void fail(const std::string& reason) {
  std::fprintf(stderr, "error: %s\n", reason.c_str());
  std::exit(1);
}

Options read_options(int count, char** arguments) {
  Options options{{"data_path", ""}, {"cpu_threads", "-1"}, {"temperature", "0"}, {"max_new_tokens", "16"}};
  for (int at = 1; at < count; at += 2) {
    const std::string name = arguments[at];
    if (name.rfind("--", 0) != 0 || at + 1 == count) fail("expected pairs of --name and value, got " + name);
    options[name.substr(2)] = arguments[at + 1];
  }
  for (const char* name : {"model_path", "tokenizer_path", "prompt"}) {
    if (options.count(name) == 0) fail(std::string("--") + name + " is missing");
  }
  return options;
}

int number(const std::string& text) {
  return std::atoi(text.c_str());
}

// Positions that one step takes, a constant of the program.
int64_t max_step(const Options& options) {
  Module program(options.at("model_path"), Module::LoadMode::Mmap);
  const auto found = program.execute("get_max_step");
  if (!found.ok()) fail(options.at("model_path") + " has no get_max_step: it was not made by gemma4-edge");
  return found->at(0).toInt();
}

std::vector<uint64_t> tokens_of(const Options& options) {
  const auto tokenizer = llm::load_tokenizer(options.at("tokenizer_path"));
  if (!tokenizer) fail(options.at("tokenizer_path") + " is no tokenizer");
  auto tokens = tokenizer->encode(options.at("prompt"), /*bos=*/1, /*eos=*/0);
  if (!tokens.ok() || tokens->empty()) fail("the prompt cannot be tokenized");
  return *tokens;
}

std::vector<llm::MultimodalInput> steps_of(const std::vector<uint64_t>& tokens, int64_t step) {
  std::vector<llm::MultimodalInput> inputs;
  for (size_t at = 0; at < tokens.size(); at += step) {
    const auto end = std::min(tokens.size(), at + static_cast<size_t>(step));
    inputs.push_back(llm::make_token_input(std::vector<uint64_t>(tokens.begin() + at, tokens.begin() + end)));
  }
  return inputs;
}

// Before anything is loaded: a pool that changes afterwards crashes.
void set_threads(int count) {
  if (count > 0) ::executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(count);
}

} // namespace

int main(int count, char** arguments) {
  const Options options = read_options(count, arguments);
  set_threads(number(options.at("cpu_threads")));
  const auto inputs = steps_of(tokens_of(options), max_step(options));
  auto runner = llm::create_multimodal_runner(
      options.at("model_path"),
      llm::load_tokenizer(options.at("tokenizer_path")),
      options.at("data_path").empty() ? std::nullopt : std::optional<const std::string>(options.at("data_path")),
      Module::LoadMode::Mmap);
  if (!runner) fail(options.at("model_path") + " does not open");
  llm::GenerationConfig config;
  config.max_new_tokens = number(options.at("max_new_tokens"));
  config.temperature = static_cast<float>(std::atof(options.at("temperature").c_str()));
  config.echo = false;
  if (runner->generate(inputs, config) != Error::Ok) fail("generation stopped");
  return 0;
}
