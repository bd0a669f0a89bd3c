// Multi-scale deformable attention on the CPU: takes tensors, chooses kernels
// and splits the work among threads.

#include "../ms_deform_attn.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "forked_process.h"
#include "kernels.h"

namespace vit_adapter {
namespace {

using cpu::Kernels;

// The widest instruction set of this machine, or the one that
// VIT_ADAPTER_CPU_CAPABILITY (avx512, avx2 or baseline) limits it to.
const Kernels& choose_kernels() {
#ifdef __x86_64__
  const char* variable = std::getenv("VIT_ADAPTER_CPU_CAPABILITY");
  const std::string limit = variable ? variable : "avx512";
  TORCH_CHECK(
      limit == "avx512" || limit == "avx2" || limit == "baseline",
      "VIT_ADAPTER_CPU_CAPABILITY must be avx512, avx2 or baseline, got ",
      limit);
  const bool has_avx2 = __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (has_avx512 && limit == "avx512") {
    return cpu::kAvx512Kernels;
  }
  if (has_avx2 && limit != "baseline") {
    return cpu::kAvx2Kernels;
  }
#endif
  return cpu::kBaselineKernels;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose_kernels();
  return chosen;
}

cpu::ValueType value_type(const at::Tensor& value) {
  switch (value.scalar_type()) {
    case at::kFloat:
      return cpu::kFloat32;
    case at::kDouble:
      return cpu::kFloat64;
    case at::kBFloat16:
      return cpu::kBFloat16;
    case at::kHalf:
      return cpu::kFloat16;
    default:
      TORCH_INTERNAL_ASSERT(false, "check_inputs lets no other dtype pass");
  }
}

cpu::Problem make_problem(
    const Sizes& sizes,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& value,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  return {
      sizes.batch,
      sizes.tokens,
      sizes.heads,
      sizes.dim,
      sizes.queries,
      sizes.levels,
      sizes.points,
      spatial_shapes.data(),
      value.const_data_ptr(),
      sampling_locations.const_data_ptr(),
      attention_weights.const_data_ptr()};
}

} // namespace

const char* cpu_instruction_set() {
  return kernels().instruction_set;
}

at::Tensor ms_deform_attn_forward_cpu(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const Sizes sizes = check_inputs(
      value,
      spatial_shapes,
      sampling_locations,
      attention_weights);
  const auto kernel = kernels().forward[value_type(value)];
  const cpu::ForkedProcessGuard guard;
  const int64_t output_sizes[] = {
      sizes.batch,
      sizes.queries,
      sizes.heads * sizes.dim};
  if (sizes.empty()) {
    return at::zeros(output_sizes, value.options());
  }
  const at::Tensor values = value.contiguous();
  const at::Tensor locations = sampling_locations.contiguous();
  const at::Tensor weights = attention_weights.contiguous();
  at::Tensor output = at::empty(output_sizes, value.options());
  const cpu::Problem problem =
      make_problem(sizes, spatial_shapes, values, locations, weights);

  // Starting a thread costs about as much as this many multiplications.
  constexpr int64_t kWorkPerThread = 1 << 16;
  const int64_t work_per_query =
      4 * sizes.heads * sizes.dim * sizes.levels * sizes.points;
  const int64_t grain = std::max<int64_t>(1, kWorkPerThread / work_per_query);
  void* const target = output.mutable_data_ptr();
  at::parallel_for(
      0,
      sizes.batch * sizes.queries,
      grain,
      [&](int64_t begin, int64_t end) { kernel(problem, target, begin, end); });
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward_cpu(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const Sizes sizes = check_inputs(
      grad_output,
      value,
      spatial_shapes,
      sampling_locations,
      attention_weights);
  const auto kernel = kernels().backward[value_type(value)];
  const cpu::ForkedProcessGuard guard;
  const at::Tensor values = value.contiguous();
  const at::Tensor locations = sampling_locations.contiguous();
  const at::Tensor weights = attention_weights.contiguous();
  if (sizes.empty()) {
    return {
        at::zeros_like(values),
        at::zeros_like(locations),
        at::zeros_like(weights)};
  }
  at::Tensor grad_value = at::empty_like(values);
  at::Tensor grad_locations = at::empty_like(locations);
  at::Tensor grad_weights = at::empty_like(weights);
  const at::Tensor grad_outputs = grad_output.contiguous();
  const cpu::Problem problem =
      make_problem(sizes, spatial_shapes, values, locations, weights);
  const cpu::Gradients gradients{
      grad_outputs.const_data_ptr(),
      grad_value.mutable_data_ptr(),
      grad_locations.mutable_data_ptr(),
      grad_weights.mutable_data_ptr()};
  at::parallel_for(
      0,
      sizes.batch * sizes.heads * sizes.levels,
      1,
      [&](int64_t begin, int64_t end) {
        kernel(problem, gradients, begin, end);
      });
  return {grad_value, grad_locations, grad_weights};
}

} // namespace vit_adapter
