// The gradient of value without atomics, summed in an order that never changes.
//
// Every point belongs to the cell between its four pixels; a map of H * W
// pixels, surrounded by zeros, has (H + 1) * (W + 1) cells. A stable sort puts
// the points in order of cells, and then every pixel gathers the points of its
// four cells. Sums are therefore taken in the order of the points in memory.

#pragma once

#include "device.cuh"

namespace vit_adapter {
namespace cuda {

// Cells of one head of one image.
VIT_ADAPTER_INLINE int64_t cells_per_head(const Problem& problem) {
  const Level last = problem.levels[problem.num_levels - 1];
  return last.first_cell + int64_t(last.height + 1) * (last.width + 1);
}

// The key of a point is the number of its cell, counted over images and heads;
// a point outside its map gets the number after the last. One thread per point.
template <typename T, typename Key>
__global__ void cell_keys_kernel(
    const Problem problem,
    const T* __restrict__ locations,
    Key* __restrict__ keys,
    int64_t count) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= count) {
    return;
  }
  const int64_t cells = cells_per_head(problem);
  const int64_t row = index / problem.row_points;
  const Level level = problem.level_of(index % problem.row_points);
  const auto position =
      position_of(level, locations[2 * index], locations[2 * index + 1]);
  int64_t key = problem.batch * problem.heads * cells;
  if (position.touches) {
    const int64_t cell = level.first_cell +
        int64_t(position.top + 1) * (level.width + 1) + position.left + 1;
    key = problem.image_head(row) * cells + cell;
  }
  keys[index] = Key(key);
}

// Sums what the points of one cell contribute to one of its corner pixels.
template <typename Storage, int kChannels, typename T>
VIT_ADAPTER_DEVICE void gather_cell(
    const Problem& problem,
    const Level& level,
    int corner,
    const int64_t* __restrict__ order, // of the points of this cell
    int64_t count,
    const Storage* __restrict__ grad_output, // at this channel
    const T* __restrict__ locations,
    const T* __restrict__ weights,
    T (&sum)[kChannels]) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t point = order[i];
    const auto position =
        position_of(level, locations[2 * point], locations[2 * point + 1]);
    const auto corners = corner_weights(
        position.fraction_x,
        position.fraction_y,
        weights[point]);
    const T weight = corner == 0 ? corners.w0
        : corner == 1            ? corners.w1
        : corner == 2            ? corners.w2
                                 : corners.w3;
    T given[kChannels];
    load<kChannels>(
        grad_output + point / problem.row_points * problem.dim,
        given);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      sum[c] += weight * given[c];
    }
  }
}

// Block (x: channels, y: one head of one token each), grid (those of all
// images). starts[k] is where the points of cell k begin in order.
template <typename Storage, int kChannels>
__global__ void gather_kernel(
    const Problem problem,
    const Storage* __restrict__ grad_output,
    const typename ArithmeticOf<Storage>::type* __restrict__ locations,
    const typename ArithmeticOf<Storage>::type* __restrict__ weights,
    const int64_t* __restrict__ order,
    const int64_t* __restrict__ starts,
    Storage* __restrict__ grad_value) {
  using T = typename ArithmeticOf<Storage>::type;
  const uint32_t item = blockIdx.x * blockDim.y + threadIdx.y;
  const uint32_t heads = problem.heads;
  const uint32_t image = item / heads / uint32_t(problem.tokens);
  if (image >= problem.batch) {
    return;
  }
  const int32_t token = item / heads % uint32_t(problem.tokens);
  int l = 0;
  while (l + 1 < problem.num_levels &&
         token >= problem.levels[l + 1].first_token) {
    ++l;
  }
  const Level level = problem.levels[l];
  const int32_t x = (token - level.first_token) % level.width;
  const int32_t y = (token - level.first_token) / level.width;
  const int64_t first_cell =
      (int64_t(image) * heads + item % heads) * cells_per_head(problem) +
      level.first_cell;
  for (int channel = threadIdx.x * kChannels; channel < problem.dim;
       channel += blockDim.x * kChannels) {
    T sum[kChannels] = {};
    for (int corner = 0; corner < 4; ++corner) {
      // Cells are counted from the one above and left of pixel (0, 0).
      const int64_t cell = first_cell +
          int64_t(y + 1 - (corner >> 1)) * (level.width + 1) + x + 1 -
          (corner & 1);
      gather_cell<Storage, kChannels>(
          problem,
          level,
          corner,
          order + starts[cell],
          starts[cell + 1] - starts[cell],
          grad_output + channel,
          locations,
          weights,
          sum);
    }
    store<kChannels>(grad_value + int64_t(item) * problem.dim + channel, sum);
  }
}

} // namespace cuda
} // namespace vit_adapter
