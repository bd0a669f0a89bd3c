// The forward kernel: query by query, all heads of a query together, so that
// locations, weights and output stream once and neighbouring rows of the values
// are read while they are in the cache.

#pragma once

#include "buffer.h"
#include "kernels.h"
#include "vec.h"

namespace vit_adapter {
namespace cpu {
namespace VIT_ADAPTER_ISA {
namespace {

constexpr int kAllCorners = 15;

// Where and how strongly every point of one query (M * L * P of them) samples.
// Filled by plain loops over arrays, which the compiler vectorizes; the sums
// over channels then do no arithmetic on coordinates.
template <typename T>
class QueryPoints {
 public:
  explicit QueryPoints(const Problem& problem)
      : count_(problem.heads * problem.levels * problem.points),
        scalars_(6 * count_),
        integers_(4 * count_) {
    const int64_t per_head = problem.levels * problem.points;
    T* width = scalars_.data();
    int32_t* start = integers_.data();
    int32_t level_start = 0;
    for (int64_t level = 0; level < problem.levels; ++level) {
      const int64_t rows = problem.spatial_shapes[2 * level];
      const int64_t columns = problem.spatial_shapes[2 * level + 1];
      for (int64_t head = 0; head < problem.heads; ++head) {
        for (int64_t point = 0; point < problem.points; ++point) {
          const int64_t i = head * per_head + level * problem.points + point;
          width[i] = static_cast<T>(columns);
          width[count_ + i] = static_cast<T>(rows); // height
          start[i] = level_start;
          start[count_ + i] = static_cast<int32_t>(columns);
        }
      }
      level_start += static_cast<int32_t>(rows * columns);
    }
  }

  // Takes the locations (M, L, P, 2) and weights (M, L, P) of a query.
  void fill(const T* __restrict locations, const T* __restrict weights) {
    const T* __restrict width = scalars_.data();
    const T* __restrict height = width + count_;
    T* __restrict corner_weight = scalars_.data() + 2 * count_;
    const int32_t* __restrict start = integers_.data();
    const int32_t* __restrict columns = start + count_;
    int32_t* __restrict token = integers_.data() + 2 * count_;
    int32_t* __restrict corners = token + count_;
    for (int64_t i = 0; i < count_; ++i) {
      const T pixel_x = pixel_coordinate(locations[2 * i], width[i]);
      const T pixel_y = pixel_coordinate(locations[2 * i + 1], height[i]);
      const bool sampled = touches_map(pixel_x, pixel_y, width[i], height[i]);
      const T x = sampled ? pixel_x : T(0);
      const T y = sampled ? pixel_y : T(0);
      const int32_t left = floor_to_int(x);
      const int32_t top = floor_to_int(y);
      const auto corner = corner_weights(
          x - static_cast<T>(left),
          y - static_cast<T>(top),
          weights[i]);
      corner_weight[i] = corner.w0;
      corner_weight[count_ + i] = corner.w1;
      corner_weight[2 * count_ + i] = corner.w2;
      corner_weight[3 * count_ + i] = corner.w3;
      token[i] = start[i] + top * columns[i] + left;
      const int32_t in_left = left >= 0;
      const int32_t in_right = static_cast<T>(left + 1) < width[i];
      const int32_t in_top = top >= 0;
      const int32_t in_bottom = static_cast<T>(top + 1) < height[i];
      const int32_t in_row = in_left | (in_right << 1);
      const int32_t in_map = (in_row & -in_top) | ((in_row & -in_bottom) << 2);
      corners[i] = in_map & -static_cast<int32_t>(sampled);
    }
  }

  VIT_ADAPTER_INLINE_METHOD T corner_weight(int corner, int64_t i) const {
    return scalars_.data()[(2 + corner) * count_ + i];
  }
  // Columns of the map, the distance in tokens between the rows of corners.
  VIT_ADAPTER_INLINE_METHOD int64_t columns(int64_t i) const {
    return integers_.data()[count_ + i];
  }
  // The token of corner 0; meaningless where that corner is outside.
  VIT_ADAPTER_INLINE_METHOD int64_t token(int64_t i) const {
    return integers_.data()[2 * count_ + i];
  }
  // Bit c tells whether corner c is inside the map.
  VIT_ADAPTER_INLINE_METHOD int32_t corners(int64_t i) const {
    return integers_.data()[3 * count_ + i];
  }

 private:
  int64_t count_;
  Buffer<T> scalars_;        // width, height, four corner weights
  Buffer<int32_t> integers_; // start, columns, token, corners
};

// The points of one head and the values they sample.
template <typename Storage, typename T>
struct HeadSum {
  const QueryPoints<T>& points;
  int64_t first, last;  // of this head's points
  const Storage* value; // of this image and head, token 0
  int64_t stride;       // elements from token to token
  Storage* output;

  // Sums kVectors * kLanes channels; the accumulators stay in registers.
  template <int kLanes, int kVectors>
  VIT_ADAPTER_INLINE_METHOD void block(int64_t channel) const {
    // Read for the corners outside the map: a product with the values there
    // would turn an infinite value beside the border into NaN.
    alignas(64) static const Storage zeros[kLanes * kVectors] = {};
    // Two chains of additions, since one would wait for its own latency.
    Vec<T, kLanes> upper[kVectors] = {}, lower[kVectors] = {};
    for (int64_t i = first; i < last; ++i) {
      const int32_t corners = points.corners(i);
      if (corners == 0) {
        continue;
      }
      const Storage* p0 = value + points.token(i) * stride + channel;
      const Storage* p1 = p0 + stride;
      const Storage* p2 = p0 + points.columns(i) * stride;
      const Storage* p3 = p2 + stride;
      if (__builtin_expect(corners != kAllCorners, 0)) {
        p0 = corners & 1 ? p0 : zeros;
        p1 = corners & 2 ? p1 : zeros;
        p2 = corners & 4 ? p2 : zeros;
        p3 = corners & 8 ? p3 : zeros;
      }
      const T w0 = points.corner_weight(0, i), w1 = points.corner_weight(1, i);
      const T w2 = points.corner_weight(2, i), w3 = points.corner_weight(3, i);
      for (int v = 0; v < kVectors; ++v) {
        upper[v] += w0 * load<kLanes>(p0 + v * kLanes);
        lower[v] += w2 * load<kLanes>(p2 + v * kLanes);
        upper[v] += w1 * load<kLanes>(p1 + v * kLanes);
        lower[v] += w3 * load<kLanes>(p3 + v * kLanes);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      store<kLanes>(output + channel + v * kLanes, upper[v] + lower[v]);
    }
  }

  // Sums channels [channel, dim), in blocks as wide as fit.
  template <int kLanes>
  VIT_ADAPTER_INLINE_METHOD void channels(int64_t channel, int64_t dim) const {
    for (; channel + 4 * kLanes <= dim; channel += 4 * kLanes) {
      block<kLanes, 4>(channel);
    }
    if (channel + 2 * kLanes <= dim) {
      block<kLanes, 2>(channel);
      channel += 2 * kLanes;
    }
    if (channel + kLanes <= dim) {
      block<kLanes, 1>(channel);
      channel += kLanes;
    }
    if constexpr (kLanes > 1) {
      if (channel < dim) {
        channels<kLanes / 2>(channel, dim);
      }
    }
  }
};

// kDim is the number of channels per head, or 0 to take it from the problem.
template <int kDim, typename Storage>
void forward_rows(
    const Problem& problem,
    Storage* output,
    int64_t begin,
    int64_t end) {
  using T = typename ArithmeticOf<Storage>::type;
  const int64_t dim = kDim ? kDim : problem.dim;
  const int64_t stride = problem.heads * dim;
  const int64_t per_head = problem.levels * problem.points;
  const int64_t per_query = problem.heads * per_head;
  const T* locations = static_cast<const T*>(problem.locations);
  const T* weights = static_cast<const T*>(problem.weights);
  QueryPoints<T> points(problem);
  for (int64_t row = begin; row < end; ++row) {
    points.fill(locations + row * per_query * 2, weights + row * per_query);
    const int64_t image = row / problem.queries;
    const Storage* value = static_cast<const Storage*>(problem.value) +
        image * problem.tokens * stride;
    for (int64_t head = 0; head < problem.heads; ++head) {
      const HeadSum<Storage, T> sum{
          points,
          head * per_head,
          (head + 1) * per_head,
          value + head * dim,
          stride,
          output + row * stride + head * dim};
      sum.template channels<kMaxLanes<T>>(0, dim);
    }
  }
}

template <typename Storage>
void forward(const Problem& problem, void* output, int64_t begin, int64_t end) {
  Storage* const rows = static_cast<Storage*>(output);
  switch (problem.dim) {
    case 32:
      return forward_rows<32>(problem, rows, begin, end);
    case 64:
      return forward_rows<64>(problem, rows, begin, end);
    default:
      return forward_rows<0>(problem, rows, begin, end);
  }
}

} // namespace
} // namespace VIT_ADAPTER_ISA
} // namespace cpu
} // namespace vit_adapter
