// The positions of sampling points, as many at a time as a vector holds.

#pragma once

#include "vec.h"

namespace vit_adapter {
namespace cpu {
namespace VIT_ADAPTER_ISA {
namespace {

// An integer as wide as T, so that vectors of both have the same lanes.
template <typename T>
struct IndexOf {
  using type = int32_t;
};
template <>
struct IndexOf<double> {
  using type = int64_t;
};
template <typename T>
using Index = typename IndexOf<T>::type;

// Vectors of the full width.
template <typename T>
using Numbers = Vec<T, kMaxLanes<T>>;
template <typename T>
using Indices = Vec<Index<T>, kMaxLanes<T>>;

template <typename T>
VIT_ADAPTER_INLINE Numbers<T> load_all(const T* source) {
  return load_same<kMaxLanes<T>>(source);
}

// Rounds count up to whole vectors.
template <typename T>
constexpr int64_t padded(int64_t count) {
  return (count + kMaxLanes<T> - 1) / kMaxLanes<T> * kMaxLanes<T>;
}

// floor() of coordinates that fit an int; a comparison that holds is -1.
template <typename T>
VIT_ADAPTER_INLINE Indices<T> floor_all(Numbers<T> coordinates) {
  const auto truncated = __builtin_convertvector(coordinates, Indices<T>);
  return truncated +
      (coordinates < __builtin_convertvector(truncated, Numbers<T>));
}

template <typename T>
struct Positions {
  Indices<T> sampled;   // all bits set; or 0: not sampled, and the rest is zero
  Indices<T> left, top; // the pixel of corner 0
  Numbers<T> fraction_x, fraction_y;
};

template <typename T>
VIT_ADAPTER_INLINE Positions<T> positions_of(
    Numbers<T> location_x,
    Numbers<T> location_y,
    Numbers<T> width,
    Numbers<T> height) {
  const Numbers<T> zero = {};
  const Numbers<T> pixel_x = pixel_coordinate(location_x, width);
  const Numbers<T> pixel_y = pixel_coordinate(location_y, height);
  Positions<T> result;
  result.sampled = touches_map(pixel_x, pixel_y, width, height);
  const Numbers<T> x = result.sampled ? pixel_x : zero;
  const Numbers<T> y = result.sampled ? pixel_y : zero;
  result.left = floor_all<T>(x);
  result.top = floor_all<T>(y);
  result.fraction_x = x - __builtin_convertvector(result.left, Numbers<T>);
  result.fraction_y = y - __builtin_convertvector(result.top, Numbers<T>);
  return result;
}

} // namespace
} // namespace VIT_ADAPTER_ISA
} // namespace cpu
} // namespace vit_adapter
