#include "operators.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ms_deform_attn.h"

namespace vit_adapter {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

template <typename Signature>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(name, "")
      .typed<Signature>();
}

Tensor call_forward(
    const Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const Tensor& locations,
    const Tensor& weights) {
  static const auto op =
      find_operator<decltype(call_forward)>("vit_adapter::ms_deform_attn");
  return op.call(value, spatial_shapes, locations, weights);
}

Gradients call_backward(
    const Tensor& grad_output,
    const Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const Tensor& locations,
    const Tensor& weights) {
  static const auto op = find_operator<decltype(call_backward)>(
      "vit_adapter::ms_deform_attn_backward");
  return op.call(grad_output, value, spatial_shapes, locations, weights);
}

class MsDeformAttn : public torch::autograd::Function<MsDeformAttn> {
 public:
  static constexpr bool is_traceable = true; // by compiled autograd

  static Tensor forward(
      AutogradContext* context,
      const Tensor& value,
      c10::SymIntArrayRef spatial_shapes,
      const Tensor& locations,
      const Tensor& weights) {
    context->save_for_backward({value, locations, weights});
    context->saved_data["spatial_shapes"] = spatial_shapes;
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call_forward(value, spatial_shapes, locations, weights);
  }

  static variable_list backward(
      AutogradContext* context,
      const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto shapes = context->saved_data["spatial_shapes"].toSymIntVector();
    const auto [value, locations, weights] =
        call_backward(grads[0], saved[0], shapes, saved[1], saved[2]);
    return {value, Tensor(), locations, weights};
  }
};

class MsDeformAttnBackward
    : public torch::autograd::Function<MsDeformAttnBackward> {
 public:
  static constexpr bool is_traceable = true;

  static variable_list forward(
      AutogradContext* context,
      const Tensor& grad_output,
      const Tensor& value,
      c10::SymIntArrayRef spatial_shapes,
      const Tensor& locations,
      const Tensor& weights) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [grad_value, grad_locations, grad_weights] =
        call_backward(grad_output, value, spatial_shapes, locations, weights);
    return {grad_value, grad_locations, grad_weights};
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK(
        false,
        "ms_deform_attn can be differentiated once only; for second "
        "derivatives, set VIT_ADAPTER_FORCE_REFERENCE=1 and use float64 or "
        "float32 tensors and a PyTorch that has those of grid_sample (2.14 "
        "does, 2.11 does not)");
  }
};

// Whether the graph of backward, or forward-mode differentiation (which a
// Function refuses), must see an operation on these tensors.
template <typename... Tensors>
bool is_differentiated(const Tensors&... tensors) {
  return (at::GradMode::is_enabled() && (... || tensors.requires_grad())) ||
      (... || tensors._fw_grad(/*level=*/0).defined());
}

Tensor forward_autograd(
    const Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const Tensor& locations,
    const Tensor& weights) {
  if (is_differentiated(value, locations, weights)) {
    return MsDeformAttn::apply(value, spatial_shapes, locations, weights);
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call_forward(value, spatial_shapes, locations, weights);
}

Gradients backward_autograd(
    const Tensor& grad_output,
    const Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const Tensor& locations,
    const Tensor& weights) {
  if (is_differentiated(grad_output, value, locations, weights)) {
    const auto gradients = MsDeformAttnBackward::apply(
        grad_output,
        value,
        spatial_shapes,
        locations,
        weights);
    return {gradients[0], gradients[1], gradients[2]};
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call_backward(grad_output, value, spatial_shapes, locations, weights);
}

template <typename Forward, typename Backward>
torch::Library
implement(torch::Library library, Forward* forward, Backward* backward) {
  library.impl("ms_deform_attn", forward);
  library.impl("ms_deform_attn_backward", backward);
  return library;
}

} // namespace

void register_operators() {
  static const torch::Library cpu = implement(
      MAKE_TORCH_LIBRARY_IMPL(vit_adapter, CPU),
      &ms_deform_attn_forward_cpu,
      &ms_deform_attn_backward_cpu);
#ifdef VIT_ADAPTER_WITH_CUDA
  static const torch::Library cuda = implement(
      MAKE_TORCH_LIBRARY_IMPL(vit_adapter, CUDA),
      &ms_deform_attn_forward_cuda,
      &ms_deform_attn_backward_cuda);
#endif
  static const torch::Library autograd = implement(
      MAKE_TORCH_LIBRARY_IMPL(vit_adapter, Autograd),
      &forward_autograd,
      &backward_autograd);
}

} // namespace vit_adapter
