// Multi-scale deformable attention: the functions of each backend, and the
// check of their inputs.
//
//   value               (B, S, M, D)  float32, float64, bfloat16 or float16
//   spatial_shapes      H_0, W_0, H_1, W_1, ...; the sum of H * W is S
//   sampling_locations  (B, Q, M, L, P, 2) as (x, y); float64 with float64
//                       values, otherwise float32
//   attention_weights   (B, Q, M, L, P), dtype as sampling_locations
//   output, its gradient (B, Q, M * D), dtype as value
//
// B batch, S tokens, M heads, D channels per head, Q queries, L levels,
// P points. Inputs need not be contiguous.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace vit_adapter {

at::Tensor ms_deform_attn_forward_cpu(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

// Gradients of value, sampling_locations and attention_weights.
std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward_cpu(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

// The instruction set that the CPU kernels use on this machine.
const char* cpu_instruction_set();

#ifdef VIT_ADAPTER_WITH_CUDA
at::Tensor ms_deform_attn_forward_cuda(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward_cuda(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

// The toolkit's version ("13.0") and the architectures compiled ("8.0", ...).
std::string cuda_version();
std::vector<std::string> cuda_architectures();
#endif

struct Sizes {
  int64_t batch, tokens, heads, dim, queries, levels, points;

  // Nothing is sampled, so outputs and gradients are zero or empty.
  bool empty() const {
    return batch == 0 || heads == 0 || dim == 0 || queries == 0 || points == 0;
  }
};

inline void check_spatial_shapes(
    at::IntArrayRef spatial_shapes,
    int64_t tokens) {
  // Kernels keep the row of a token in 32 bits, with room for a zero border.
  constexpr int64_t kMaxTokens = int64_t(1) << 29;
  TORCH_CHECK(
      !spatial_shapes.empty() && spatial_shapes.size() % 2 == 0,
      "ms_deform_attn: spatial_shapes must hold (H, W) of every level, got ",
      spatial_shapes);
  int64_t total = 0;
  for (size_t i = 0; i < spatial_shapes.size(); i += 2) {
    const int64_t height = spatial_shapes[i], width = spatial_shapes[i + 1];
    TORCH_CHECK(
        height > 0 && width > 0 && height <= kMaxTokens / width,
        "ms_deform_attn: spatial_shapes must be positive and below 2^29 "
        "tokens, got ",
        spatial_shapes);
    total += height * width;
  }
  TORCH_CHECK(
      total == tokens && total <= kMaxTokens,
      "ms_deform_attn: spatial_shapes ",
      spatial_shapes,
      " hold ",
      total,
      " tokens, but value has S = ",
      tokens,
      " (at most 2^29)");
}

// The only check between the Python functions and the kernels' raw pointers.
inline Sizes check_inputs(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  TORCH_CHECK(
      value.dim() == 4,
      "ms_deform_attn: value must be (B, S, M, D), got ",
      value.sizes());
  check_spatial_shapes(spatial_shapes, value.size(1));
  TORCH_CHECK(
      sampling_locations.dim() == 6,
      "ms_deform_attn: sampling_locations must be (B, Q, M, L, P, 2), got ",
      sampling_locations.sizes());
  const Sizes sizes{
      value.size(0),
      value.size(1),
      value.size(2),
      value.size(3),
      sampling_locations.size(1),
      static_cast<int64_t>(spatial_shapes.size() / 2),
      sampling_locations.size(4)};
  const int64_t expected[] =
      {sizes.batch, sizes.queries, sizes.heads, sizes.levels, sizes.points, 2};
  TORCH_CHECK(
      sampling_locations.sizes() == at::IntArrayRef(expected, 6),
      "ms_deform_attn: sampling_locations must be ",
      at::IntArrayRef(expected, 6),
      " to fit value and spatial_shapes, got ",
      sampling_locations.sizes());
  TORCH_CHECK(
      attention_weights.sizes() == at::IntArrayRef(expected, 5),
      "ms_deform_attn: attention_weights must be ",
      at::IntArrayRef(expected, 5),
      ", got ",
      attention_weights.sizes());
  const auto arithmetic =
      value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  for (const at::Tensor& tensor : {sampling_locations, attention_weights}) {
    TORCH_CHECK(
        tensor.device() == value.device(),
        "ms_deform_attn: all tensors must be on ",
        value.device(),
        " as value, got ",
        tensor.device());
    TORCH_CHECK(
        tensor.scalar_type() == arithmetic,
        "ms_deform_attn: sampling_locations and attention_weights must be ",
        arithmetic,
        " with value of ",
        value.scalar_type(),
        ", got ",
        tensor.scalar_type());
  }
  return sizes;
}

// The same for backward, which also takes the output's gradient.
inline Sizes check_inputs(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const Sizes sizes = check_inputs(
      value,
      spatial_shapes,
      sampling_locations,
      attention_weights);
  const int64_t expected[] = {
      sizes.batch,
      sizes.queries,
      sizes.heads * sizes.dim};
  TORCH_CHECK(
      grad_output.sizes() == at::IntArrayRef(expected, 3) &&
          grad_output.scalar_type() == value.scalar_type() &&
          grad_output.device() == value.device(),
      "ms_deform_attn: grad_output must be ",
      at::IntArrayRef(expected, 3),
      " of ",
      value.scalar_type(),
      " on ",
      value.device(),
      ", got ",
      grad_output.sizes(),
      " of ",
      grad_output.scalar_type(),
      " on ",
      grad_output.device());
  return sizes;
}

} // namespace vit_adapter
