// Backward on the device. Block (x: kLanes lanes of a row, y: rows), grid (rows
// of all images). The lanes share the points of a row as in forward, and each
// takes kChannels channels at a time. Every lane of a warp must reach the
// shuffles, even if its row is out of range: its points then have no pixels.

#pragma once

#include "footprint.cuh"

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

// Sums the dots of two points over the lanes of a row: even lanes get those of
// the first point, odd lanes those of the second.
template <int kLanes, typename T>
VIT_ADAPTER_DEVICE void sum_over_lanes(const T (&dots)[2][4], T (&sum)[4]) {
  const bool odd = threadIdx.x % 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T other = __shfl_xor_sync(kWarp, odd ? dots[0][i] : dots[1][i], 1);
    sum[i] = (odd ? dots[1][i] : dots[0][i]) + other;
  }
#pragma unroll
  for (int distance = 2; distance < kLanes; distance *= 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum[i] += __shfl_xor_sync(kWarp, sum[i], distance);
    }
  }
}

// Multiplies a row's gradient by the pixels of two points, into dots, and
// scatters it to their gradients if kScatter.
template <
    bool kScatter,
    int kChannels,
    typename Storage,
    typename T,
    typename Offset>
VIT_ADAPTER_DEVICE void visit_two_points(
    const Footprint<T, Offset> (&points)[2],
    const int (&inside)[2], // a bit for each corner
    const T (&given)[kChannels],
    const Storage* value, // of this image, head and channel
    T* grad_value,
    Offset stride,
    T (&dots)[2][4]) {
  Word<Storage, kChannels> pixels[2][4];
  const auto is_inside = [&](int point, int corner) {
    return bool(inside[point] >> corner & 1);
  };
  load_pixels<kChannels>(points, value, stride, is_inside, pixels);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    T pixel[kChannels];
    unpack<kChannels, Storage>(pixels[i / 4][i % 4], pixel);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      dots[i / 4][i % 4] += pixel[c] * given[c];
    }
  }
  if constexpr (kScatter) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const auto& point = points[i / 4];
      T amount[kChannels];
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        amount[c] = point.weight[i % 4] * given[c];
      }
      if (is_inside(i / 4, i % 4)) {
        add_to<kChannels>(grad_value + point.offset(i % 4, stride), amount);
      }
    }
  }
}

constexpr int kBackwardThreads = 128; // of a block

// Blocks that must fit a multiprocessor: 128 registers a thread with four, and
// 168 with three.
template <typename Offset>
constexpr int kBackwardBlocks = sizeof(Offset) == sizeof(int64_t) ? 3 : 4;

// Without kScatter the gradient of value is left to deterministic.cuh.
template <
    typename Storage,
    int kChannels,
    int kLanes,
    typename Offset,
    bool kScatter>
__global__ void __launch_bounds__(kBackwardThreads, kBackwardBlocks<Offset>)
    backward_kernel(
        const Problem problem,
        const Storage* __restrict__ grad_output,
        const Storage* __restrict__ value,
        const typename ArithmeticOf<Storage>::type* __restrict__ locations,
        const typename ArithmeticOf<Storage>::type* __restrict__ weights,
        typename ArithmeticOf<Storage>::type* grad_value, // initially zero
        typename ArithmeticOf<Storage>::type* __restrict__ grad_locations,
        typename ArithmeticOf<Storage>::type* __restrict__ grad_weights) {
  using T = typename ArithmeticOf<Storage>::type;
  constexpr int kStep = kLanes * kChannels;
  const uint32_t row = blockIdx.x * blockDim.y + threadIdx.y;
  const int first_channel = threadIdx.x * kChannels;
  const int64_t start = problem.head_offset(row) + first_channel;
  const Storage* source = whole(value + start);
  T* target = kScatter ? whole(grad_value + start) : nullptr;
  const Offset stride = static_cast<Offset>(problem.stride);
  const Storage* row_gradient = grad_output + int64_t(row) * problem.dim;
  T given[kChannels] = {};
  if (row < problem.rows && first_channel < problem.dim) {
    load<kChannels>(row_gradient + first_channel, given);
  }
  for (int first = 0; first < problem.row_points; first += kLanes) {
    const int index = first + int(threadIdx.x);
    const bool has_point = row < problem.rows && index < problem.row_points;
    const int64_t point = int64_t(row) * problem.row_points + index;
    Footprint<T, Offset> mine = {};
    int inside = 0;
    if (has_point) {
      const Level& level = problem.level_of(index);
      const auto position = read_position(level, locations, point);
      if (position.touches) {
        mine = footprint_of(level, position, weights[point], stride);
        inside = position.corners_inside(level);
      }
    }
    T sum[4] = {}; // the dots of this lane's own point
#pragma unroll 1
    for (int p = 0; p < kLanes && first + p < problem.row_points; p += 2) {
      Footprint<T, Offset> two[2] = {
          footprint_from<kLanes>(mine, p),
          footprint_from<kLanes>(mine, p + 1)};
      const int two_inside[2] = {
          __shfl_sync(kWarp, inside, p, kLanes),
          __shfl_sync(kWarp, inside, p + 1, kLanes)};
      T dots[2][4] = {};
      for (int channel = first_channel; channel < problem.dim;
           channel += kStep) {
        if (kStep < problem.dim && row < problem.rows) { // several steps
          load<kChannels>(row_gradient + channel, given);
        }
        visit_two_points<kScatter, kChannels>(
            two,
            two_inside,
            given,
            source,
            target,
            stride,
            dots);
        two[0].first += kStep;
        two[1].first += kStep;
      }
      T two_sums[4];
      sum_over_lanes<kLanes>(dots, two_sums);
      if (int(threadIdx.x) / 2 == p / 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sum[i] = two_sums[i];
        }
      }
    }
    if (has_point) {
      // Read again, so that the loop above has more registers.
      const Level& level = problem.level_of(index);
      const auto position = read_position(level, whole(locations), point);
      PointGradient<T> gradient = {T(0), T(0), T(0)};
      if (position.touches) {
        gradient = point_gradient(
            sum[0],
            sum[1],
            sum[2],
            sum[3],
            position.fraction_x,
            position.fraction_y,
            whole(weights)[point],
            T(level.width),
            T(level.height));
      }
      const T along_axes[2] = {gradient.x, gradient.y};
      store<2>(grad_locations + 2 * point, along_axes);
      grad_weights[point] = gradient.weight;
    }
  }
}

} // namespace cuda
} // namespace vit_adapter
