// Between tensors and kernels: sizes as a kernel argument, dtypes as template
// arguments, and the shape of a launch. Host code, for .cu files only.

#pragma once

#include "../ms_deform_attn.h"

#include <c10/cuda/CUDAException.h>

#include <algorithm>
#include <limits>

#include "variant.h"

namespace vit_adapter {
namespace cuda {
namespace {

Problem make_problem(const Sizes& sizes, at::IntArrayRef spatial_shapes) {
  TORCH_CHECK(
      sizes.levels <= kMaxLevels,
      "ms_deform_attn: at most ",
      kMaxLevels,
      " levels on CUDA, got ",
      sizes.levels);
  constexpr int64_t kLimit = std::numeric_limits<int32_t>::max();
  const int64_t rows = sizes.batch * sizes.queries * sizes.heads;
  const int64_t pixels = sizes.batch * sizes.tokens * sizes.heads;
  TORCH_CHECK(
      rows < kLimit && pixels < kLimit && sizes.dim < kLimit &&
          sizes.levels * sizes.points < kLimit,
      "ms_deform_attn: on CUDA, images * queries * heads, images * tokens * "
      "heads, channels and levels * points must be below 2^31 each, got ",
      rows,
      ", ",
      pixels,
      ", ",
      sizes.dim,
      " and ",
      sizes.levels * sizes.points,
      "; pass fewer images at a time");
  Problem problem{};
  problem.batch = sizes.batch;
  problem.tokens = sizes.tokens;
  problem.queries = sizes.queries;
  problem.stride = sizes.heads * sizes.dim;
  problem.rows = static_cast<uint32_t>(rows);
  problem.heads = static_cast<int32_t>(sizes.heads);
  problem.dim = static_cast<int32_t>(sizes.dim);
  problem.num_levels = static_cast<int32_t>(sizes.levels);
  problem.points = static_cast<int32_t>(sizes.points);
  problem.row_points = static_cast<int32_t>(sizes.levels * sizes.points);
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
        cell < kLimit,
        "ms_deform_attn: the maps are too large, ",
        spatial_shapes);
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
// A contiguous tensor whose numbers can be loaded in pairs.
at::Tensor aligned_to_pairs(const at::Tensor& tensor) {
  const at::Tensor result = tensor.contiguous();
  const auto address = reinterpret_cast<uintptr_t>(result.const_data_ptr());
  return address % (2 * result.element_size()) == 0 ? result : result.clone();
}
template <typename T>
T* mutable_pointer(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

struct Launch {
  dim3 grid, block;
};

// `lanes` threads for each of `items`, in each of `steps`; at most `threads` in
// a block.
Launch
make_launch(int64_t threads, int64_t items, int64_t lanes, int64_t steps = 1) {
  const int64_t per_block = threads / lanes;
  const int64_t blocks = (items + per_block - 1) / per_block;
  constexpr int64_t kMaxSteps = 65535; // of a grid, along y
  TORCH_CHECK(
      steps <= kMaxSteps,
      "ms_deform_attn: too many channels per head for CUDA");
  return {
      dim3(unsigned(blocks), unsigned(steps)),
      dim3(unsigned(lanes), unsigned(per_block))};
}

// Throws if the previous launch failed, with a helpful message if nothing was
// compiled for the architecture of the GPU.
void check_launch() {
  const cudaError_t error = cudaPeekAtLastError();
  if (error == cudaErrorNoKernelImageForDevice ||
      error == cudaErrorUnsupportedPtxVersion) {
    cudaGetLastError(); // clears the error, or the next check would report it
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    const std::vector<std::string> compiled = cuda_architectures();
    TORCH_CHECK(
        false,
        "ms_deform_attn: the kernels were compiled for the architectures ",
        c10::ArrayRef<std::string>(compiled),
        " and do not run on this GPU, of ",
        major,
        ".",
        minor,
        " (",
        cudaGetErrorString(error),
        "); install with TORCH_CUDA_ARCH_LIST=",
        major,
        ".",
        minor,
        " in the environment, or on this machine");
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

} // namespace
} // namespace cuda
} // namespace vit_adapter
