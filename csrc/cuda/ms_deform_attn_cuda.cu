// Multi-scale deformable attention on CUDA devices: takes tensors and launches
// kernels on the current stream. Headers are few on purpose, so that building
// needs only the CUDA compiler and runtime, not the toolkit's libraries.

#include "../ms_deform_attn.h"

#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <limits>

#include "backward.cuh"
#include "deterministic.cuh"
#include "forward.cuh"
#include "launch.h"

namespace vit_adapter {
namespace cuda {
namespace {

struct Inputs {
  at::Tensor value, locations, weights; // contiguous
};

template <typename Storage, typename V, bool kScatter>
void launch_backward(
    const Problem& problem,
    const at::Tensor& grad_output,
    const Inputs& inputs,
    const at::Tensor& grad_value,
    const at::Tensor& grad_locations,
    const at::Tensor& grad_weights) {
  using T = typename ArithmeticOf<Storage>::type;
  const Launch launch = make_launch(kBackwardThreads, problem.rows, V::kLanes);
  backward_kernel<
      Storage,
      V::kChannels,
      V::kLanes,
      typename V::Offset,
      kScatter>
      <<<launch.grid, launch.block, 0, c10::cuda::getCurrentCUDAStream()>>>(
          problem,
          pointer<Storage>(grad_output),
          pointer<Storage>(inputs.value),
          pointer<T>(inputs.locations),
          pointer<T>(inputs.weights),
          kScatter ? mutable_pointer<T>(grad_value) : nullptr,
          mutable_pointer<T>(grad_locations),
          mutable_pointer<T>(grad_weights));
  check_launch();
}

// The order of the points by cell, and where the points of a cell begin.
template <typename T, typename Key>
std::tuple<at::Tensor, at::Tensor> sort_by_cell(
    const Problem& problem,
    const at::Tensor& locations,
    int64_t cells,
    at::ScalarType key_type) {
  constexpr int kLanes = 8;
  const auto options = locations.options().dtype(key_type);
  const at::Tensor keys = at::empty({locations.numel() / 2}, options);
  const Launch launch = make_launch(kThreads, problem.rows, kLanes);
  cell_keys_kernel<T, Key>
      <<<launch.grid, launch.block, 0, c10::cuda::getCurrentCUDAStream()>>>(
          problem,
          pointer<T>(locations),
          mutable_pointer<Key>(keys));
  check_launch();
  const auto [sorted, order] =
      at::sort(keys, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor starts =
      at::searchsorted(sorted, at::arange(cells + 1, options));
  return {order, starts};
}

// The points as an array of SortedPoint<T>, and where those of a cell begin.
template <typename T>
std::tuple<at::Tensor, at::Tensor> sort_points(
    const Problem& problem,
    const Inputs& inputs) {
  const int64_t count = inputs.locations.numel() / 2;
  TORCH_CHECK(
      count <= std::numeric_limits<int32_t>::max(), // PyTorch sorts no more
      "ms_deform_attn: the deterministic backward pass needs fewer than 2^31 "
      "points (images * queries * heads * levels * points), got ",
      count,
      "; use fewer images at a time");
  const int64_t cells = problem.batch * problem.heads * cells_per_head(problem);
  // 32 bits where they suffice: half as much to sort.
  const auto [order, starts] = cells < std::numeric_limits<int32_t>::max()
      ? sort_by_cell<T, int32_t>(problem, inputs.locations, cells, at::kInt)
      : sort_by_cell<T, int64_t>(problem, inputs.locations, cells, at::kLong);
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  const at::Tensor sorted = at::empty(
      {count * int64_t(sizeof(SortedPoint<T>))},
      order.options().dtype(at::kByte));
  sorted_points_kernel<T>
      <<<unsigned(blocks), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
          problem,
          pointer<T>(inputs.locations),
          pointer<T>(inputs.weights),
          pointer<int64_t>(order),
          mutable_pointer<SortedPoint<T>>(sorted),
          count);
  check_launch();
  return {sorted, starts};
}

template <typename Storage, int kChannels>
void launch_gather(
    const Problem& problem,
    const at::Tensor& grad_output,
    const Inputs& inputs,
    const at::Tensor& grad_value) {
  using T = typename ArithmeticOf<Storage>::type;
  const auto [sorted, starts] = sort_points<T>(problem, inputs);
  const Launch launch = make_launch(
      kThreads,
      problem.batch * problem.tokens * problem.heads,
      std::min(kThreads, problem.dim / kChannels));
  gather_kernel<Storage, kChannels>
      <<<launch.grid, launch.block, 0, c10::cuda::getCurrentCUDAStream()>>>(
          problem,
          pointer<Storage>(grad_output),
          pointer<SortedPoint<T>>(sorted),
          pointer<int64_t>(starts),
          mutable_pointer<Storage>(grad_value));
  check_launch();
}

} // namespace
} // namespace cuda

at::Tensor ms_deform_attn_forward_cuda(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  using namespace cuda;
  const Sizes sizes = check_inputs(
      value,
      spatial_shapes,
      sampling_locations,
      attention_weights);
  const c10::cuda::CUDAGuard guard(value.device());
  const int64_t output_sizes[] = {
      sizes.batch,
      sizes.queries,
      sizes.heads * sizes.dim};
  if (sizes.empty()) {
    return at::zeros(output_sizes, value.options());
  }
  const Problem problem = make_problem(sizes, spatial_shapes);
  const Inputs inputs{
      value.contiguous(),
      aligned_to_pairs(sampling_locations),
      attention_weights.contiguous()};
  const at::Tensor output = at::empty(output_sizes, value.options());
  dispatch(value, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    using T = typename ArithmeticOf<Storage>::type;
    const auto launch_kernel = [&](auto variant) {
      using V = decltype(variant);
      constexpr int64_t kStep = V::kLanes * V::kChannels;
      const Launch launch = make_launch(
          kThreads,
          problem.rows,
          V::kLanes,
          (problem.dim + kStep - 1) / kStep);
      forward_kernel<Storage, V::kChannels, V::kLanes, typename V::Offset>
          <<<launch.grid, launch.block, 0, c10::cuda::getCurrentCUDAStream()>>>(
              problem,
              pointer<Storage>(inputs.value),
              pointer<T>(inputs.locations),
              pointer<T>(inputs.weights),
              mutable_pointer<Storage>(output));
      check_launch();
    };
    choose_variant<Storage>(
        problem,
        {inputs.value.const_data_ptr(), output.const_data_ptr()},
        launch_kernel);
  });
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward_cuda(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  using namespace cuda;
  const Sizes sizes = check_inputs(
      grad_output,
      value,
      spatial_shapes,
      sampling_locations,
      attention_weights);
  const c10::cuda::CUDAGuard guard(value.device());
  const Inputs inputs{
      value.contiguous(),
      aligned_to_pairs(sampling_locations),
      attention_weights.contiguous()};
  if (sizes.empty()) {
    return {
        at::zeros_like(inputs.value),
        at::zeros_like(inputs.locations),
        at::zeros_like(inputs.weights)};
  }
  const Problem problem = make_problem(sizes, spatial_shapes);
  const at::Tensor given = grad_output.contiguous();
  const at::Tensor grad_locations = at::empty_like(inputs.locations);
  const at::Tensor grad_weights = at::empty_like(inputs.weights);
  const bool deterministic = at::globalContext().deterministicAlgorithms();
  // Scattered sums of 16-bit values stay in float32 until they are complete.
  const at::Tensor grad_value = deterministic
      ? at::empty_like(inputs.value)
      : at::zeros_like(
            inputs.value,
            inputs.value.options().dtype(inputs.locations.dtype()));
  dispatch(value, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const auto launch_kernels = [&](auto variant) {
      using V = decltype(variant);
      if (deterministic) {
        launch_gather<Storage, V::kChannels>(
            problem,
            given,
            inputs,
            grad_value);
      }
      const auto launch = deterministic ? launch_backward<Storage, V, false>
                                        : launch_backward<Storage, V, true>;
      launch(problem, given, inputs, grad_value, grad_locations, grad_weights);
    };
    choose_variant<Storage>(
        problem,
        {inputs.value.const_data_ptr(), given.const_data_ptr()},
        launch_kernels);
  });
  return {grad_value.to(value.scalar_type()), grad_locations, grad_weights};
}

std::string cuda_version() {
  return std::to_string(CUDART_VERSION / 1000) + "." +
      std::to_string(CUDART_VERSION % 1000 / 10);
}

std::vector<std::string> cuda_architectures() {
  std::vector<std::string> names;
#ifdef __CUDA_ARCH_LIST__ // such as 800,900
  for (const int architecture : {__CUDA_ARCH_LIST__}) {
    names.push_back(
        std::to_string(architecture / 100) + "." +
        std::to_string(architecture % 100 / 10));
  }
#endif
  return names;
}

} // namespace vit_adapter
