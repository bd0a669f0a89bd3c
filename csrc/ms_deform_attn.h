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
#include <sstream>
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

// [(6, 5), (3, 2)] for 6, 5, 3, 2.
inline std::string describe_shapes(at::IntArrayRef spatial_shapes) {
  std::ostringstream text;
  for (size_t i = 0; i + 1 < spatial_shapes.size(); i += 2) {
    text << (i == 0 ? "[(" : ", (") << spatial_shapes[i] << ", "
         << spatial_shapes[i + 1] << ")";
  }
  return text.str() + "]";
}

// A dtype as Python writes it.
inline std::string describe_dtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "torch.float32";
    case at::kDouble:
      return "torch.float64";
    case at::kBFloat16:
      return "torch.bfloat16";
    case at::kHalf:
      return "torch.float16";
    default:
      return c10::toString(dtype);
  }
}

inline void check_spatial_shapes(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes) {
  // Kernels keep the row of a token in 32 bits, with room for a zero border.
  constexpr int64_t kMaxTokens = int64_t(1) << 29;
  TORCH_CHECK_VALUE(
      !spatial_shapes.empty(),
      "spatial_shapes is empty; give the (H, W) of every level");
  TORCH_CHECK_VALUE(
      spatial_shapes.size() % 2 == 0,
      "spatial_shapes must hold (H, W) of every level, got ",
      spatial_shapes);
  int64_t total = 0;
  for (size_t i = 0; i < spatial_shapes.size(); i += 2) {
    const int64_t height = spatial_shapes[i], width = spatial_shapes[i + 1];
    TORCH_CHECK_VALUE(
        height > 0 && width > 0,
        "spatial_shapes must be positive (H, W), got ",
        describe_shapes(spatial_shapes));
    TORCH_CHECK_VALUE(
        height <= kMaxTokens / width && total + height * width <= kMaxTokens,
        "spatial_shapes must hold at most 2^29 tokens in all, got ",
        describe_shapes(spatial_shapes));
    total += height * width;
  }
  TORCH_CHECK_VALUE(
      total == value.size(1),
      "spatial_shapes ",
      describe_shapes(spatial_shapes),
      " hold ",
      total,
      " tokens in all, but value has S = ",
      value.size(1),
      " (shape ",
      value.sizes(),
      ")");
}

// Checks the device and the dtype of locations or weights.
inline void check_points(
    const char* name,
    const at::Tensor& tensor,
    const at::Tensor& value) {
  TORCH_CHECK_VALUE(
      tensor.device() == value.device(),
      name,
      " is on ",
      tensor.device(),
      ", but value is on ",
      value.device(),
      "; move them to one device");
  const bool is_double = value.scalar_type() == at::kDouble;
  TORCH_CHECK_VALUE(
      tensor.scalar_type() == (is_double ? at::kDouble : at::kFloat),
      name,
      " must be ",
      is_double ? "float64" : "float32",
      " to go with value of ",
      describe_dtype(value.scalar_type()),
      ", got ",
      describe_dtype(tensor.scalar_type()));
}

// The only check between the Python functions and the kernels' raw pointers.
inline Sizes check_inputs(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  TORCH_CHECK_VALUE(
      value.dim() == 4,
      "value must be (B, S, M, D), got shape ",
      value.sizes());
  TORCH_CHECK_VALUE(
      value.scalar_type() == at::kFloat || value.scalar_type() == at::kDouble ||
          value.scalar_type() == at::kBFloat16 ||
          value.scalar_type() == at::kHalf,
      "value must be float32, float64, bfloat16 or float16, got ",
      describe_dtype(value.scalar_type()),
      "; convert it with value.float()");
  check_spatial_shapes(value, spatial_shapes);
  TORCH_CHECK_VALUE(
      sampling_locations.dim() == 6,
      "sampling_locations must be (B, Q, M, L, P, 2), got shape ",
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
  TORCH_CHECK_VALUE(
      sampling_locations.sizes() == at::IntArrayRef(expected, 6),
      "sampling_locations must be (B, Q, M, L, P, 2) = ",
      at::IntArrayRef(expected, 6),
      " to fit value of shape ",
      value.sizes(),
      " and ",
      sizes.levels,
      " levels, got ",
      sampling_locations.sizes());
  TORCH_CHECK_VALUE(
      attention_weights.sizes() == at::IntArrayRef(expected, 5),
      "attention_weights must be (B, Q, M, L, P) = ",
      at::IntArrayRef(expected, 5),
      " as sampling_locations, got ",
      attention_weights.sizes());
  check_points("sampling_locations", sampling_locations, value);
  check_points("attention_weights", attention_weights, value);
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
  TORCH_CHECK_VALUE(
      grad_output.sizes() == at::IntArrayRef(expected, 3) &&
          grad_output.scalar_type() == value.scalar_type() &&
          grad_output.device() == value.device(),
      "grad_output must be ",
      at::IntArrayRef(expected, 3),
      " of ",
      describe_dtype(value.scalar_type()),
      " on ",
      value.device(),
      ", got ",
      grad_output.sizes(),
      " of ",
      describe_dtype(grad_output.scalar_type()),
      " on ",
      grad_output.device());
  return sizes;
}

} // namespace vit_adapter
