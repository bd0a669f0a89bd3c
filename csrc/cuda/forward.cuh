// Forward on the device. Block (x: channels of a row, y: rows), grid (x: rows
// of an image, y: images); every thread sums kChannels channels of one row.

#pragma once

#include "device.cuh"

namespace vit_adapter {
namespace cuda {

template <typename Storage, int kChannels, typename T>
VIT_ADAPTER_DEVICE void add_point(
    const Level& level,
    const Position<T>& position,
    T attention,
    const Storage* value, // of this image, head and channel
    int64_t stride,
    T (&sum)[kChannels]) {
  const auto weights =
      corner_weights(position.fraction_x, position.fraction_y, attention);
  const T weight[4] = {weights.w0, weights.w1, weights.w2, weights.w3};
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    if (position.inside(level, corner)) {
      T channels[kChannels];
      load<kChannels>(value + position.token(level, corner) * stride, channels);
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        sum[i] += weight[corner] * channels[i];
      }
    }
  }
}

template <typename Storage, int kChannels>
__global__ void forward_kernel(
    const Problem problem,
    const Storage* __restrict__ value,
    const typename ArithmeticOf<Storage>::type* __restrict__ locations,
    const typename ArithmeticOf<Storage>::type* __restrict__ weights,
    Storage* __restrict__ output) {
  using T = typename ArithmeticOf<Storage>::type;
  const uint32_t row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= problem.rows()) {
    return;
  }
  const uint32_t head = row % uint32_t(problem.heads);
  const int64_t stride = problem.stride();
  for (int64_t image = blockIdx.y; image < problem.batch; image += gridDim.y) {
    const int64_t image_row = image * problem.rows() + row;
    const int64_t first_point = image_row * problem.points_per_row();
    const Storage* head_value =
        value + image * problem.tokens * stride + int64_t(head) * problem.dim;
    for (int channel = threadIdx.x * kChannels; channel < problem.dim;
         channel += blockDim.x * kChannels) {
      T sum[kChannels] = {};
      int64_t index = first_point;
      for (int l = 0; l < problem.num_levels; ++l) {
        const Level level = problem.levels[l];
        for (int p = 0; p < problem.points; ++p, ++index) {
          const auto position = position_of(
              level,
              locations[2 * index],
              locations[2 * index + 1]);
          if (position.touches) {
            add_point(
                level,
                position,
                weights[index],
                head_value + channel,
                stride,
                sum);
          }
        }
      }
      store<kChannels>(output + image_row * problem.dim + channel, sum);
    }
  }
}

} // namespace cuda
} // namespace vit_adapter
