// The Python module vit_adapter._C: build information, registration of the
// operators, and the functions of each backend for direct calls.

#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include "ms_deform_attn.h"
#include "operators.h"

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "gcc " __VERSION__;
#endif

pybind11::dict build_info() {
  pybind11::dict info;
  info["torch"] = TORCH_VERSION;
  info["compiler"] = kCompiler;
  info["cpu_instruction_set"] = vit_adapter::cpu_instruction_set();
#ifdef VIT_ADAPTER_WITH_CUDA
  info["cuda"] = vit_adapter::cuda_version();
  info["cuda_architectures"] = vit_adapter::cuda_architectures();
#endif
  return info;
}

} // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace vit_adapter;
  using ReleaseGil = pybind11::call_guard<pybind11::gil_scoped_release>;
  m.def("build_info", &build_info);
  m.def("register_operators", &register_operators);
  m.def(
      "ms_deform_attn_forward_cpu",
      &ms_deform_attn_forward_cpu,
      ReleaseGil());
  m.def(
      "ms_deform_attn_backward_cpu",
      &ms_deform_attn_backward_cpu,
      ReleaseGil());
#ifdef VIT_ADAPTER_WITH_CUDA
  m.def(
      "ms_deform_attn_forward_cuda",
      &ms_deform_attn_forward_cuda,
      ReleaseGil());
  m.def(
      "ms_deform_attn_backward_cuda",
      &ms_deform_attn_backward_cuda,
      ReleaseGil());
#endif
}
