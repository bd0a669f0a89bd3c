// Multi-scale deformable attention on CUDA devices: tensors in, kernels
// launched on the current stream. Headers are few on purpose: building needs
// the CUDA compiler and runtime alone, and none of the toolkit's libraries.

#include "../ms_deform_attn.h"

#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <limits>

#include "backward.cuh"
#include "deterministic.cuh"
#include "forward.cuh"

namespace vit_adapter {
namespace {

using cuda::ArithmeticOf;
using cuda::Level;
using cuda::Problem;

constexpr int kThreads = 256; // of a block
constexpr int64_t kMaxGridY = 65535;

Problem make_problem(const Sizes& sizes, at::IntArrayRef spatial_shapes) {
  TORCH_CHECK(
      sizes.levels <= cuda::kMaxLevels,
      "ms_deform_attn: at most ",
      cuda::kMaxLevels,
      " levels on CUDA, got ",
      sizes.levels);
  constexpr int64_t kLimit = std::numeric_limits<int32_t>::max();
  TORCH_CHECK(
      sizes.queries * sizes.heads < kLimit && sizes.heads < kLimit &&
          sizes.dim < kLimit && sizes.levels * sizes.points < kLimit,
      "ms_deform_attn: queries * heads, channels and points must be below 2^31 "
      "each, got ",
      sizes.queries,
      " * ",
      sizes.heads,
      ", ",
      sizes.dim,
      " and ",
      sizes.levels * sizes.points);
  Problem problem{};
  problem.batch = sizes.batch;
  problem.tokens = sizes.tokens;
  problem.queries = sizes.queries;
  problem.heads = static_cast<int32_t>(sizes.heads);
  problem.dim = static_cast<int32_t>(sizes.dim);
  problem.num_levels = static_cast<int32_t>(sizes.levels);
  problem.points = static_cast<int32_t>(sizes.points);
  int64_t token = 0, cell = 0;
  for (int64_t l = 0; l < sizes.levels; ++l) {
    const int64_t height = spatial_shapes[2 * l];
    const int64_t width = spatial_shapes[2 * l + 1];
    problem.levels[l] = {
        static_cast<int32_t>(height),
        static_cast<int32_t>(width),
        static_cast<int32_t>(token),
        static_cast<int32_t>(cell)};
    token += height * width;
    cell += (height + 1) * (width + 1);
    TORCH_CHECK(
        cell < kLimit, "ms_deform_attn: the maps are too large, ", spatial_shapes);
  }
  return problem;
}

template <typename Storage>
struct StorageTag {
  using type = Storage;
};

// Calls function(StorageTag<...>()) for the dtype of value.
template <typename Function>
void dispatch(const at::Tensor& value, const Function& function) {
  switch (value.scalar_type()) {
    case at::kFloat:
      return function(StorageTag<float>());
    case at::kDouble:
      return function(StorageTag<double>());
    case at::kBFloat16:
      return function(StorageTag<__nv_bfloat16>());
    case at::kHalf:
      return function(StorageTag<__half>());
    default:
      TORCH_CHECK(
          false,
          "ms_deform_attn: value must be float32, float64, bfloat16 or "
          "float16, got ",
          value.scalar_type());
  }
}

template <typename T>
const T* pointer(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* mutable_pointer(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Calls function(integral_constant<channels per thread>): 16 bytes where every
// row starts on a multiple of 16 bytes, else one channel.
template <typename Storage, typename Function>
void dispatch_channels(
    const Problem& problem,
    std::initializer_list<const void*> bases,
    const Function& function) {
  constexpr int kWide = 16 / sizeof(Storage);
  bool aligned = problem.dim % kWide == 0;
  for (const void* base : bases) {
    aligned = aligned && reinterpret_cast<uintptr_t>(base) % 16 == 0;
  }
  if (aligned) {
    function(std::integral_constant<int, kWide>());
  } else {
    function(std::integral_constant<int, 1>());
  }
}

struct Launch {
  dim3 grid, block;
};

// `lanes` threads for each of `items` in every image.
Launch make_launch(const Problem& problem, int64_t items, int64_t lanes) {
  const int64_t per_block = std::max<int64_t>(1, kThreads / lanes);
  const int64_t blocks = (items + per_block - 1) / per_block;
  TORCH_CHECK(
      blocks <= std::numeric_limits<int32_t>::max(),
      "ms_deform_attn: too many tokens or queries per image for CUDA, ",
      items);
  return {
      dim3(unsigned(blocks), unsigned(std::min(problem.batch, kMaxGridY))),
      dim3(unsigned(lanes), unsigned(per_block))};
}

// One lane per pack of channels.
int64_t lanes_per_row(const Problem& problem, int channels) {
  return std::min<int64_t>(kThreads, problem.dim / channels);
}

// A power of two within a warp, for sums by shuffles.
int64_t lanes_for_shuffles(const Problem& problem, int channels) {
  int64_t lanes = 1;
  while (lanes < 32 && lanes * channels < problem.dim) {
    lanes *= 2;
  }
  return lanes;
}

struct Inputs {
  at::Tensor value, locations, weights; // contiguous
};

template <typename Storage, int kChannels, bool kScatter>
void launch_backward(
    const Problem& problem,
    const at::Tensor& grad_output,
    const Inputs& inputs,
    const at::Tensor& grad_value,
    const at::Tensor& grad_locations,
    const at::Tensor& grad_weights) {
  using T = typename ArithmeticOf<Storage>::type;
  const Launch launch = make_launch(
      problem, problem.rows(), lanes_for_shuffles(problem, kChannels));
  cuda::backward_kernel<Storage, kChannels, kScatter>
      <<<launch.grid, launch.block, 0, c10::cuda::getCurrentCUDAStream()>>>(
          problem,
          pointer<Storage>(grad_output),
          pointer<Storage>(inputs.value),
          pointer<T>(inputs.locations),
          pointer<T>(inputs.weights),
          kScatter ? mutable_pointer<T>(grad_value) : nullptr,
          mutable_pointer<T>(grad_locations),
          mutable_pointer<T>(grad_weights));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// The points sorted by cell: their order, and where each cell's points begin.
template <typename T, typename Key>
std::tuple<at::Tensor, at::Tensor> sort_by_cell(
    const Problem& problem,
    const at::Tensor& locations,
    int64_t cells,
    at::ScalarType key_type) {
  const int64_t count = locations.numel() / 2;
  const auto options = locations.options().dtype(key_type);
  const at::Tensor keys = at::empty({count}, options);
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  TORCH_CHECK(
      blocks <= std::numeric_limits<int32_t>::max(),
      "ms_deform_attn: too many points for the deterministic backward, ",
      count);
  cuda::cell_keys_kernel<T, Key>
      <<<unsigned(blocks), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
          problem, pointer<T>(locations), mutable_pointer<Key>(keys), count);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const auto [sorted, order] =
      at::sort(keys, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor starts =
      at::searchsorted(sorted, at::arange(cells + 1, options));
  return {order, starts};
}

template <typename Storage, int kChannels>
void launch_gather(
    const Problem& problem,
    const at::Tensor& grad_output,
    const Inputs& inputs,
    const at::Tensor& grad_value) {
  using T = typename ArithmeticOf<Storage>::type;
  const int64_t cells =
      problem.batch * problem.heads * cuda::cells_per_head(problem);
  // Half the bits to sort, where they suffice.
  const auto [order, starts] = cells < std::numeric_limits<int32_t>::max()
      ? sort_by_cell<T, int32_t>(problem, inputs.locations, cells, at::kInt)
      : sort_by_cell<T, int64_t>(problem, inputs.locations, cells, at::kLong);
  const Launch launch = make_launch(
      problem,
      problem.tokens * problem.heads,
      lanes_per_row(problem, kChannels));
  cuda::gather_kernel<Storage, kChannels>
      <<<launch.grid, launch.block, 0, c10::cuda::getCurrentCUDAStream()>>>(
          problem,
          pointer<Storage>(grad_output),
          pointer<T>(inputs.locations),
          pointer<T>(inputs.weights),
          pointer<int64_t>(order),
          pointer<int64_t>(starts),
          mutable_pointer<Storage>(grad_value));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

} // namespace

at::Tensor ms_deform_attn_forward_cuda(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const Sizes sizes = check_inputs(
      value, spatial_shapes, sampling_locations, attention_weights);
  const c10::cuda::CUDAGuard guard(value.device());
  const int64_t output_sizes[] = {
      sizes.batch, sizes.queries, sizes.heads * sizes.dim};
  if (sizes.empty()) {
    return at::zeros(output_sizes, value.options());
  }
  const Problem problem = make_problem(sizes, spatial_shapes);
  const Inputs inputs{
      value.contiguous(),
      sampling_locations.contiguous(),
      attention_weights.contiguous()};
  const at::Tensor output = at::empty(output_sizes, value.options());
  dispatch(value, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    using T = typename ArithmeticOf<Storage>::type;
    const auto launch_kernel = [&](auto channels) {
      const Launch launch = make_launch(
          problem, problem.rows(), lanes_per_row(problem, channels));
      cuda::forward_kernel<Storage, channels>
          <<<launch.grid, launch.block, 0, c10::cuda::getCurrentCUDAStream()>>>(
              problem,
              pointer<Storage>(inputs.value),
              pointer<T>(inputs.locations),
              pointer<T>(inputs.weights),
              mutable_pointer<Storage>(output));
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    };
    dispatch_channels<Storage>(
        problem, {inputs.value.const_data_ptr()}, launch_kernel);
  });
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward_cuda(
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
  const c10::cuda::CUDAGuard guard(value.device());
  const Inputs inputs{
      value.contiguous(),
      sampling_locations.contiguous(),
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
  // Scattered sums of 16-bit values are kept in float32 until they are whole.
  const at::Tensor grad_value = deterministic
      ? at::empty_like(inputs.value)
      : at::zeros_like(
            inputs.value, inputs.value.options().dtype(inputs.locations.dtype()));
  dispatch(value, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const auto launch_kernels = [&](auto channels) {
      if (deterministic) {
        launch_gather<Storage, channels>(problem, given, inputs, grad_value);
      }
      const auto launch = deterministic
          ? launch_backward<Storage, channels, false>
          : launch_backward<Storage, channels, true>;
      launch(problem, given, inputs, grad_value, grad_locations, grad_weights);
    };
    dispatch_channels<Storage>(
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
