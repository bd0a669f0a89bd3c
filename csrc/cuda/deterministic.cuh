// The gradient of value without atomics, summed in an order that never changes.
//
// Every point belongs to the cell between its four pixels; a map of H * W
// pixels, surrounded by zeros, has (H + 1) * (W + 1) cells. A stable sort puts
// the points in order of cells, and then every pixel gathers the points of its
// four cells. The points of a cell are therefore summed in their order in
// memory.

#pragma once

#include <type_traits>

#include "device.cuh"

namespace vit_adapter {
namespace cuda {

// Cells of one head of one image.
VIT_ADAPTER_INLINE int64_t cells_per_head(const Problem& problem) {
  const Level last = problem.levels[problem.num_levels - 1];
  return last.first_cell + int64_t(last.height + 1) * (last.width + 1);
}

// The key of a point is the number of its cell, counted over images and heads;
// a point outside its map gets the number after the last. Block (x: points of a
// row, y: rows), grid (rows of all images).
template <typename T, typename Key>
__global__ void cell_keys_kernel(
    const Problem problem,
    const T* __restrict__ locations,
    Key* __restrict__ keys) {
  const uint32_t row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= problem.rows) {
    return;
  }
  const int64_t cells = cells_per_head(problem);
  const int64_t first_cell = problem.image_head(row) * cells;
  for (int index = threadIdx.x; index < problem.row_points;
       index += blockDim.x) {
    const Level& level = problem.level_of(index);
    const int64_t point = int64_t(row) * problem.row_points + index;
    const auto position = read_position(level, locations, point);
    int64_t key = problem.batch * problem.heads * cells;
    if (position.touches) {
      key = first_cell + level.first_cell +
          int64_t(position.top + 1) * (level.width + 1) + position.left + 1;
    }
    keys[point] = Key(key);
  }
}

// What gathering needs of a point. The row is found once for each point, and
// not again by every lane that gathers it.
template <typename T>
struct alignas(4 * sizeof(T)) SortedPoint {
  // As wide as the others, so that no bytes of a point are left unwritten.
  std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t> row;
  T fraction_x, fraction_y, attention;
};

// One thread per point, in order of cells.
template <typename T>
__global__ void sorted_points_kernel(
    const Problem problem,
    const T* __restrict__ locations,
    const T* __restrict__ weights,
    const int64_t* __restrict__ order,
    SortedPoint<T>* __restrict__ sorted,
    int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) {
    return;
  }
  const int64_t point = order[i];
  const Level& level = problem.level_of(point % problem.row_points);
  const auto position = read_position(level, locations, point);
  sorted[i] = {
      uint32_t(point / problem.row_points),
      position.fraction_x,
      position.fraction_y,
      weights[point]};
}

// Sums what the points of two neighbouring cells contribute to a pixel, which
// is the right one of the first cell (points from `begin`) and the left one of
// the second (points from `second`), in their lower or upper row.
template <typename Storage, int kChannels, typename T>
VIT_ADAPTER_DEVICE void gather_cells(
    const SortedPoint<T>* __restrict__ sorted,
    int64_t begin,
    int64_t second,
    int64_t end,
    bool lower,
    const Storage* __restrict__ grad_output, // at this channel
    int64_t dim,
    T (&sum)[kChannels]) {
#pragma unroll 2
  for (int64_t i = begin; i < end; ++i) {
    const SortedPoint<T> point = sorted[i];
    const auto corners =
        corner_weights(point.fraction_x, point.fraction_y, point.attention);
    const T left = lower ? corners.w2 : corners.w0;
    const T right = lower ? corners.w3 : corners.w1;
    const T weight = i < second ? right : left;
    T given[kChannels];
    load<kChannels>(grad_output + point.row * dim, given);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      sum[c] += weight * given[c];
    }
  }
}

// Block (x: channels, y: one head of one token each), grid (those of all
// images). starts[k] is where the points of cell k begin in `sorted`.
template <typename Storage, int kChannels>
__global__ void gather_kernel(
    const Problem problem,
    const Storage* __restrict__ grad_output,
    const SortedPoint<
        typename ArithmeticOf<Storage>::type>* __restrict__ sorted,
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
  const Level& level = problem.levels[l];
  const int32_t x = (token - level.first_token) % level.width;
  const int32_t y = (token - level.first_token) / level.width;
  // The cell above and left of the pixel.
  const int64_t first_cell =
      (int64_t(image) * heads + item % heads) * cells_per_head(problem) +
      level.first_cell + int64_t(y) * (level.width + 1) + x;
  for (int channel = threadIdx.x * kChannels; channel < problem.dim;
       channel += blockDim.x * kChannels) {
    T sum[kChannels] = {};
#pragma unroll
    for (int side = 0; side < 2; ++side) { // the cells above, those below
      const int64_t* cell = starts + first_cell + side * (level.width + 1);
      gather_cells<Storage, kChannels>(
          sorted,
          cell[0],
          cell[1],
          cell[2],
          side == 0,
          grad_output + channel,
          problem.dim,
          sum);
    }
    store<kChannels>(grad_value + int64_t(item) * problem.dim + channel, sum);
  }
}

} // namespace cuda
} // namespace vit_adapter
