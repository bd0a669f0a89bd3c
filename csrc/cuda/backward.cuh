// Backward on the device. Block (x: lanes of a row, a power of two up to 32;
// y: rows), grid (rows of all images). A lane handles kChannels channels at a
// time. Shuffles sum the gradients of a point over the lanes, so every lane of
// a warp must reach them, even if its row is out of range.

#pragma once

#include "device.cuh"

namespace vit_adapter {
namespace cuda {

// Adds 16 aligned bytes to global memory: one instruction where the hardware
// has it and the compiler knows it (since CUDA 12.1), instead of four.
VIT_ADAPTER_DEVICE void add_four(float* target, const float* amount) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && CUDART_VERSION >= 12010
  atomicAdd(
      reinterpret_cast<float4*>(target),
      make_float4(amount[0], amount[1], amount[2], amount[3]));
#else
  atomicAdd(target, amount[0]);
  atomicAdd(target + 1, amount[1]);
  atomicAdd(target + 2, amount[2]);
  atomicAdd(target + 3, amount[3]);
#endif
}

template <int kChannels>
VIT_ADAPTER_DEVICE void add_to(
    float* target,
    const float (&amount)[kChannels]) {
  if constexpr (kChannels % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kChannels; i += 4) {
      add_four(target + i, amount + i);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      atomicAdd(target + i, amount[i]);
    }
  }
}

template <int kChannels>
VIT_ADAPTER_DEVICE void add_to(
    double* target,
    const double (&amount)[kChannels]) {
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    atomicAdd(target + i, amount[i]);
  }
}

template <typename T>
VIT_ADAPTER_DEVICE T sum_over_lanes(T number) {
  for (int distance = blockDim.x / 2; distance > 0; distance /= 2) {
    number += __shfl_xor_sync(0xffffffffu, number, distance);
  }
  return number;
}

// Multiplies a row's gradient by the pixels of one point, into dots, and
// scatters it to their gradients if kScatter.
template <typename Storage, int kChannels, bool kScatter, typename T>
VIT_ADAPTER_DEVICE void visit_corners(
    const Level& level,
    const Position<T>& position,
    T attention,
    const T (&given)[kChannels],
    const Storage* value, // of this image, head and channel
    T* grad_value,
    int64_t stride,
    T (&dots)[4]) {
  const auto weights =
      corner_weights(position.fraction_x, position.fraction_y, attention);
  const T weight[4] = {weights.w0, weights.w1, weights.w2, weights.w3};
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    if (position.inside(level, corner)) {
      const int64_t token =
          position.token(level) + (corner & 1) + (corner >> 1) * level.width;
      const int64_t offset = token * stride;
      T channels[kChannels];
      load<kChannels>(value + offset, channels);
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        dots[corner] += channels[i] * given[i];
        channels[i] = weight[corner] * given[i];
      }
      if constexpr (kScatter) {
        add_to<kChannels>(grad_value + offset, channels);
      }
    }
  }
}

// Without kScatter the gradient of value is left to deterministic.cuh.
template <typename Storage, int kChannels, bool kScatter>
__global__ void backward_kernel(
    const Problem problem,
    const Storage* __restrict__ grad_output,
    const Storage* __restrict__ value,
    const typename ArithmeticOf<Storage>::type* __restrict__ locations,
    const typename ArithmeticOf<Storage>::type* __restrict__ weights,
    typename ArithmeticOf<Storage>::type* grad_value, // initially zero
    typename ArithmeticOf<Storage>::type* __restrict__ grad_locations,
    typename ArithmeticOf<Storage>::type* __restrict__ grad_weights) {
  using T = typename ArithmeticOf<Storage>::type;
  const uint32_t row = blockIdx.x * blockDim.y + threadIdx.y;
  const bool active = row < problem.rows; // no return: shuffles follow
  const int64_t start = problem.head_offset(row);
  const int first_channel = threadIdx.x * kChannels;
  const int step = blockDim.x * kChannels;
  const Storage* row_gradient = grad_output + int64_t(row) * problem.dim;
  T given[kChannels] = {};
  if (active && first_channel < problem.dim) {
    load<kChannels>(row_gradient + first_channel, given);
  }
  int64_t index = int64_t(row) * problem.row_points;
  for (int l = 0; l < problem.num_levels; ++l) {
    const Level level = problem.levels[l];
    for (int p = 0; p < problem.points; ++p, ++index) {
      PointGradient<T> gradient = {T(0), T(0), T(0)};
      if (active) {
        const auto position =
            position_of(level, locations[2 * index], locations[2 * index + 1]);
        const T attention = weights[index];
        T dots[4] = {};
        if (position.touches) {
          for (int channel = first_channel; channel < problem.dim;
               channel += step) {
            if (step < problem.dim) { // rows of several steps are reloaded
              load<kChannels>(row_gradient + channel, given);
            }
            visit_corners<Storage, kChannels, kScatter>(
                level,
                position,
                attention,
                given,
                value + start + channel,
                grad_value + start + channel,
                problem.stride,
                dots);
          }
          // Linear in the dots, so each lane can apply it to its own part.
          gradient = point_gradient(
              dots[0],
              dots[1],
              dots[2],
              dots[3],
              position.fraction_x,
              position.fraction_y,
              attention,
              T(level.width),
              T(level.height));
        }
      }
      const T gradient_x = sum_over_lanes(gradient.x);
      const T gradient_y = sum_over_lanes(gradient.y);
      const T gradient_weight = sum_over_lanes(gradient.weight);
      if (active && threadIdx.x == 0) {
        grad_locations[2 * index] = gradient_x;
        grad_locations[2 * index + 1] = gradient_y;
        grad_weights[index] = gradient_weight;
      }
    }
  }
}

} // namespace cuda
} // namespace vit_adapter
