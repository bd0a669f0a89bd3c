// Copies the map of one level and head out of its tensor, adding a border of
// zeros, and back.

#pragma once

#include "reduce.h"

namespace vit_adapter {
namespace cpu {
namespace VIT_ADAPTER_ISA {
namespace {

// A map of one level and head with its border: (H + 2, W + 2, D).
struct BorderedMap {
  int64_t height, width; // without the border

  int64_t row() const { // tokens from row to row
    return width + 2;
  }
  int64_t tokens() const {
    return (height + 2) * row();
  }
};

// Copies the tokens of one head into a bordered map and zeroes the border.
template <typename Storage, typename T>
void pack(
    const BorderedMap& map,
    const Storage* source,
    int64_t stride,
    int64_t dim,
    T* target) {
  __builtin_memset(target, 0, map.row() * dim * sizeof(T));
  target += map.row() * dim;
  for (int64_t y = 0; y < map.height; ++y) {
    __builtin_memset(target, 0, dim * sizeof(T));
    target += dim;
    for (int64_t x = 0; x < map.width; ++x, source += stride, target += dim) {
      convert<kMaxLanes<T>>(source, target, dim);
    }
    __builtin_memset(target, 0, dim * sizeof(T));
    target += dim;
  }
  __builtin_memset(target, 0, map.row() * dim * sizeof(T));
}

// Copies back without the border, which holds what fell outside the map.
template <typename Storage, typename T>
void unpack(
    const BorderedMap& map,
    const T* source,
    int64_t stride,
    int64_t dim,
    Storage* target) {
  for (int64_t y = 0; y < map.height; ++y) {
    source += (y == 0 ? map.row() + 1 : 2) * dim;
    for (int64_t x = 0; x < map.width; ++x, source += dim, target += stride) {
      convert<kMaxLanes<T>>(source, target, dim);
    }
  }
}

} // namespace
} // namespace VIT_ADAPTER_ISA
} // namespace cpu
} // namespace vit_adapter
