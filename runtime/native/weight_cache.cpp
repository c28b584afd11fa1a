// Gives programs that Python loads the options of XNNPACK's on-disk weight cache, which its API has no words for.
//
// Every method is loaded through Program::load_method. Loaded before ExecuTorch and into the global scope, this library
// is found first wherever that is called; it adds the options while they are on, and calls the one in ExecuTorch.

#include <dlfcn.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/executor/program.h>

namespace executorch::runtime {
namespace {

constexpr const char* kLibrary = "libexecutorch.so";
constexpr const char* kLoadMethod =
    "_ZNK10executorch7runtime7Program11load_methodEPKcPNS0_13MemoryManagerEPNS0_11EventTracerEPKNS0_12NamedDataMapE"
    "PKNS0_21LoadBackendOptionsMapENS0_4SpanIKNS0_6KernelEEE";

BackendOptions<2> options;
LoadBackendOptionsMap backends; // holds a view of the options
bool on = false;

using LoadMethod = Result<Method>(const Program*, const char*, MemoryManager*, EventTracer*, const NamedDataMap*,
                                  const LoadBackendOptionsMap*, Span<const Kernel>);

} // namespace

Result<Method> Program::load_method(const char* name, MemoryManager* memory, EventTracer* tracer,
                                    const NamedDataMap* data, const LoadBackendOptionsMap* given,
                                    Span<const Kernel> kernels) const {
  static auto* load = reinterpret_cast<LoadMethod*>(dlsym(dlopen(kLibrary, RTLD_NOW | RTLD_NOLOAD), kLoadMethod));
  return load(this, name, memory, tracer, data, on && !given ? &backends : given, kernels);
}

} // namespace executorch::runtime

// Of methods that are loaded from now on; null: none. Returns whether ExecuTorch took the options.
extern "C" bool set_weight_cache(const char* path) {
  using namespace executorch::runtime;
  on = path != nullptr;
  return !on || (options.set_option("weight_cache_enabled", true) == Error::Ok &&
                 options.set_option("packed_cache_path", path) == Error::Ok &&
                 backends.set_options("XnnpackBackend", options.view()) == Error::Ok);
}
