// Forward on the device. Block (x: kLanes lanes of a row, y: rows), grid (x:
// rows of all images, y: steps over the channels of a row); a lane sums
// kChannels channels. Every lane of a warp must reach the shuffles, even if its
// row is out of range: its points then have no weights.

#pragma once

#include "footprint.cuh"

namespace vit_adapter {
namespace cuda {

template <int kChannels, typename Storage, typename T, typename Offset>
VIT_ADAPTER_DEVICE void add_two_points(
    const Footprint<T, Offset> (&points)[2],
    const Storage* value, // of this image, head and channel
    Offset stride,
    T (&sum)[kChannels]) {
  Word<Storage, kChannels> pixels[2][4];
  const auto counts = [&](int point, int corner) {
    return points[point].weight[corner] != T(0);
  };
  load_pixels<kChannels>(points, value, stride, counts, pixels);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    T pixel[kChannels];
    unpack<kChannels, Storage>(pixels[i / 4][i % 4], pixel);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      sum[c] += points[i / 4].weight[i % 4] * pixel[c];
    }
  }
}

template <typename Storage, int kChannels, int kLanes, typename Offset>
__global__ void __launch_bounds__(kThreads, kBlocks<Storage>) forward_kernel(
    const Problem problem,
    const Storage* __restrict__ value,
    const typename ArithmeticOf<Storage>::type* __restrict__ locations,
    const typename ArithmeticOf<Storage>::type* __restrict__ weights,
    Storage* __restrict__ output) {
  using T = typename ArithmeticOf<Storage>::type;
  const uint32_t row = blockIdx.x * blockDim.y + threadIdx.y;
  const int channel = int(blockIdx.y * kLanes + threadIdx.x) * kChannels;
  // A lane without channels reads the last ones, in vain.
  const Storage* source = whole(
      value + problem.head_offset(row) + min(channel, problem.dim - kChannels));
  const Offset stride = static_cast<Offset>(problem.stride);
  T sum[kChannels] = {};
  for (int first = 0; first < problem.row_points; first += kLanes) {
    Footprint<T, Offset> mine = {};
    const int index = first + int(threadIdx.x);
    if (row < problem.rows && index < problem.row_points) {
      const Level& level = problem.level_of(index);
      const int64_t point = int64_t(row) * problem.row_points + index;
      const auto position = read_position(level, locations, point);
      if (position.touches) {
        mine = footprint_of(level, position, weights[point], stride);
      }
    }
#pragma unroll 1
    for (int p = 0; p < kLanes && first + p < problem.row_points; p += 2) {
      const Footprint<T, Offset> two[2] = {
          footprint_from<kLanes>(mine, p),
          footprint_from<kLanes>(mine, p + 1)};
      add_two_points<kChannels>(two, source, stride, sum);
    }
  }
  if (row < problem.rows && channel < problem.dim) {
    store<kChannels>(output + int64_t(row) * problem.dim + channel, sum);
  }
}

} // namespace cuda
} // namespace vit_adapter
