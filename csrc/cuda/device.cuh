// What all device kernels share: the sizes of a call and the position of a
// point. No ATen here or in any .cuh file.
//
// B batch, S tokens, M heads, D channels per head, Q queries, L levels,
// P points. A row is one head of one query.

#pragma once

#include <cstdint>

#include "../ms_deform_attn_math.h"
#include "pack.cuh"

namespace vit_adapter {
namespace cuda {

constexpr int kThreads = 256; // of a block
constexpr int kMaxLevels = 32;

// Blocks that must fit a multiprocessor: 64 registers a thread with four, and
// 128 with two.
template <typename Storage>
constexpr int kBlocks = sizeof(Storage) == sizeof(double) ? 2 : 4;

struct Level {
  int32_t height, width;
  int32_t first_token; // in S
  int32_t first_cell;  // of (height + 1) * (width + 1); see deterministic.cuh
};

// Passed as a kernel argument, so that no launch waits for a copy.
struct Problem {
  int64_t batch, tokens, queries;
  int64_t stride; // heads * dim: from token to token
  uint32_t rows;  // of all images
  int32_t heads, dim, num_levels, points;
  int32_t row_points; // num_levels * points
  Level levels[kMaxLevels];

  // The number of a row's head, counted over images.
  VIT_ADAPTER_METHOD int64_t image_head(uint32_t row) const {
    const uint32_t image = row / (uint32_t(queries) * uint32_t(heads));
    return int64_t(image) * heads + row % uint32_t(heads);
  }
  // The element of value where the maps of a row's image and head begin.
  VIT_ADAPTER_METHOD int64_t head_offset(uint32_t row) const {
    const uint32_t image = row / (uint32_t(queries) * uint32_t(heads));
    return image * tokens * stride + int64_t(row % uint32_t(heads)) * dim;
  }
  // The level of a point of a row.
  VIT_ADAPTER_METHOD const Level& level_of(uint32_t point) const {
    return levels[point / uint32_t(points)];
  }
};

// floor() of a coordinate that fits an int.
template <typename T>
VIT_ADAPTER_DEVICE int32_t floor_to_int(T coordinate) {
  const int32_t truncated = static_cast<int32_t>(coordinate);
  return truncated - (coordinate < static_cast<T>(truncated) ? 1 : 0);
}

// A point in the pixels of its level.
template <typename T>
struct Position {
  bool touches;      // if false, nothing is sampled and the rest is zero
  int32_t left, top; // the pixel of corner 0
  T fraction_x, fraction_y;

  // Whether corner c (0 top left ... 3 bottom right) is in the map.
  VIT_ADAPTER_METHOD bool inside(const Level& level, int corner) const {
    const bool x = corner & 1 ? left + 1 < level.width : left >= 0;
    const bool y = corner & 2 ? top + 1 < level.height : top >= 0;
    return x & y;
  }
  // A bit for every corner.
  VIT_ADAPTER_METHOD int corners_inside(const Level& level) const {
    return int(inside(level, 0)) | int(inside(level, 1)) << 1 |
        int(inside(level, 2)) << 2 | int(inside(level, 3)) << 3;
  }
  // The token of corner 0; before the first one if it is outside the map.
  VIT_ADAPTER_METHOD int32_t token(const Level& level) const {
    return level.first_token + top * level.width + left;
  }
};

template <typename T>
VIT_ADAPTER_DEVICE Position<T>
position_of(const Level& level, T location_x, T location_y) {
  const T width = T(level.width), height = T(level.height);
  const T x = pixel_coordinate(location_x, width);
  const T y = pixel_coordinate(location_y, height);
  if (!touches_map(x, y, width, height)) {
    return {false, 0, 0, T(0), T(0)};
  }
  const int32_t left = floor_to_int(x), top = floor_to_int(y);
  return {true, left, top, x - T(left), y - T(top)};
}

// The position of the point of a number, counted over rows.
template <typename T>
VIT_ADAPTER_DEVICE Position<T>
read_position(const Level& level, const T* locations, int64_t point) {
  T location[2];
  load<2>(locations + 2 * point, location);
  return position_of(level, location[0], location[1]);
}

} // namespace cuda
} // namespace vit_adapter
