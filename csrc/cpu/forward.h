// The forward kernel: query by query, all heads of a query together, so that
// locations, weights and output stream once and neighbouring rows of the values
// are read while they are in the cache.

#pragma once

#include "buffer.h"
#include "kernels.h"
#include "points.h"

namespace vit_adapter {
namespace cpu {
namespace VIT_ADAPTER_ISA {
namespace {

constexpr int kAllCorners = 15;

// Where and how strongly every point of one query (M * L * P of them) samples.
// Computed for whole vectors of points before any value is read; the sums over
// channels then do no arithmetic on coordinates.
template <typename T>
class QueryPoints {
 public:
  explicit QueryPoints(const Problem& problem)
      : count_(problem.heads * problem.levels * problem.points),
        scalars_(kScalars * padded<T>(count_)),
        indices_(kIndices * padded<T>(count_)) {
    const int64_t per_head = problem.levels * problem.points;
    for (int64_t i = 0; i < padded<T>(count_); ++i) {
      // What follows the last point is computed too, as any point, and unused.
      const int64_t level = i % per_head / problem.points;
      const int64_t rows = problem.spatial_shapes[2 * level];
      const int64_t columns = problem.spatial_shapes[2 * level + 1];
      int64_t start = 0;
      for (int64_t before = 0; before < level; ++before) {
        start += problem.spatial_shapes[2 * before] *
            problem.spatial_shapes[2 * before + 1];
      }
      scalar(kWidth)[i] = static_cast<T>(columns);
      scalar(kHeight)[i] = static_cast<T>(rows);
      scalar(kX)[i] = scalar(kY)[i] = scalar(kWeight)[i] = T(0);
      index(kRows)[i] = static_cast<Index<T>>(rows);
      index(kColumns)[i] = static_cast<Index<T>>(columns);
      index(kStart)[i] = static_cast<Index<T>>(start);
    }
  }

  // Takes the locations (M, L, P, 2) and weights (M, L, P) of a query.
  void fill(const T* locations, const T* weights) {
    T* const x = scalar(kX);
    T* const y = scalar(kY);
    T* const weight = scalar(kWeight);
    for (int64_t i = 0; i < count_; ++i) {
      x[i] = locations[2 * i];
      y[i] = locations[2 * i + 1];
      weight[i] = weights[i];
    }
    for (int64_t i = 0; i < count_; i += kMaxLanes<T>) {
      locate(i);
    }
  }

  VIT_ADAPTER_INLINE_METHOD T corner_weight(int corner, int64_t i) const {
    return scalar(kCornerWeight + corner)[i];
  }
  // Columns of the map, the distance in tokens between the rows of corners.
  VIT_ADAPTER_INLINE_METHOD int64_t columns(int64_t i) const {
    return index(kColumns)[i];
  }
  // The token of corner 0; meaningless where that corner is outside.
  VIT_ADAPTER_INLINE_METHOD int64_t token(int64_t i) const {
    return index(kToken)[i];
  }
  // Bit c tells whether corner c is inside the map.
  VIT_ADAPTER_INLINE_METHOD int corners(int64_t i) const {
    return static_cast<int>(index(kCorners)[i]);
  }

 private:
  // Rows of scalars_ and of indices_.
  enum { kWidth, kHeight, kX, kY, kWeight, kCornerWeight, kScalars = 9 };
  enum { kRows, kColumns, kStart, kToken, kCorners, kIndices };

  // A vector of points, from point i on.
  VIT_ADAPTER_INLINE_METHOD void locate(int64_t i) {
    const auto at = positions_of<T>(
        load_all(scalar(kX) + i),
        load_all(scalar(kY) + i),
        load_all(scalar(kWidth) + i),
        load_all(scalar(kHeight) + i));
    const auto weights = corner_weights(
        at.fraction_x,
        at.fraction_y,
        load_all(scalar(kWeight) + i));
    store<kMaxLanes<T>>(scalar(kCornerWeight) + i, weights.w0);
    store<kMaxLanes<T>>(scalar(kCornerWeight + 1) + i, weights.w1);
    store<kMaxLanes<T>>(scalar(kCornerWeight + 2) + i, weights.w2);
    store<kMaxLanes<T>>(scalar(kCornerWeight + 3) + i, weights.w3);

    constexpr int kLanes = kMaxLanes<T>;
    const auto columns = load_same<kLanes>(index(kColumns) + i);
    const auto start = load_same<kLanes>(index(kStart) + i);
    store_same<kLanes>(
        index(kToken) + i,
        Indices<T>(start + at.top * columns + at.left));
    const Indices<T> left = at.sampled & (at.left >= 0);
    const Indices<T> right = at.sampled & (at.left + 1 < columns);
    const Indices<T> top = at.top >= 0;
    const Indices<T> bottom = at.top + 1 < load_same<kLanes>(index(kRows) + i);
    store_same<kLanes>(
        index(kCorners) + i,
        Indices<T>(
            (top & left & 1) | (top & right & 2) | (bottom & left & 4) |
            (bottom & right & 8)));
  }

  VIT_ADAPTER_INLINE_METHOD T* scalar(int row) {
    return scalars_.data() + row * padded<T>(count_);
  }
  VIT_ADAPTER_INLINE_METHOD const T* scalar(int row) const {
    return scalars_.data() + row * padded<T>(count_);
  }
  VIT_ADAPTER_INLINE_METHOD Index<T>* index(int row) {
    return indices_.data() + row * padded<T>(count_);
  }
  VIT_ADAPTER_INLINE_METHOD const Index<T>* index(int row) const {
    return indices_.data() + row * padded<T>(count_);
  }

  int64_t count_;
  Buffer<T> scalars_;
  Buffer<Index<T>> indices_;
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
      const int corners = points.corners(i);
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
