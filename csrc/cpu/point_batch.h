// What backward reads and computes for a batch of points.

#pragma once

#include "bordered_map.h"
#include "points.h"

namespace vit_adapter {
namespace cpu {
namespace VIT_ADAPTER_ISA {
namespace {

// Points of several queries in one level and head, and their results in
// backward.
template <typename T>
struct PointBatch {
  static constexpr int kCapacity = 64; // a multiple of every vector's lanes
  using Array = T[kCapacity];
  using IndexArray = Index<T>[kCapacity];

  alignas(64) Array x = {}, y = {}; // location, then its gradient
  alignas(64) Array weight = {};    // attention, then its gradient
  alignas(64) Array attention;      // zero for a point that is not sampled
  alignas(64) Array fraction_x, fraction_y;
  alignas(64) Array corner_weight[4];
  alignas(64) Array dot[4] = {}; // of each corner; zero if not sampled
  alignas(64) IndexArray token;  // of corner 0 in the bordered map
  alignas(64) IndexArray sampled;

  void locate(const BorderedMap& map, int count) {
    constexpr int kLanes = kMaxLanes<T>;
    const Numbers<T> zero = {};
    const auto width = zero + static_cast<T>(map.width);
    const auto height = zero + static_cast<T>(map.height);
    const auto row = static_cast<Index<T>>(map.row());
    for (int i = 0; i < count; i += kLanes) {
      const auto at =
          positions_of<T>(load_all(x + i), load_all(y + i), width, height);
      const Numbers<T> used = at.sampled ? load_all(weight + i) : zero;
      const auto corner = corner_weights(at.fraction_x, at.fraction_y, used);
      store<kLanes>(attention + i, used);
      store<kLanes>(fraction_x + i, at.fraction_x);
      store<kLanes>(fraction_y + i, at.fraction_y);
      store<kLanes>(corner_weight[0] + i, corner.w0);
      store<kLanes>(corner_weight[1] + i, corner.w1);
      store<kLanes>(corner_weight[2] + i, corner.w2);
      store<kLanes>(corner_weight[3] + i, corner.w3);
      store_same<kLanes>(sampled + i, at.sampled);
      store_same<kLanes>(
          token + i,
          Indices<T>((at.top + 1) * row + at.left + 1));
    }
  }

  void differentiate(const BorderedMap& map, int count) {
    constexpr int kLanes = kMaxLanes<T>;
    const Numbers<T> zero = {};
    for (int i = 0; i < count; i += kLanes) {
      const auto gradient = point_gradient(
          load_all(dot[0] + i),
          load_all(dot[1] + i),
          load_all(dot[2] + i),
          load_all(dot[3] + i),
          load_all(fraction_x + i),
          load_all(fraction_y + i),
          load_all(attention + i),
          zero + static_cast<T>(map.width),
          zero + static_cast<T>(map.height));
      store<kLanes>(x + i, gradient.x);
      store<kLanes>(y + i, gradient.y);
      store<kLanes>(weight + i, gradient.weight);
    }
  }
};

} // namespace
} // namespace VIT_ADAPTER_ISA
} // namespace cpu
} // namespace vit_adapter
