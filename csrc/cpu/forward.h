// The forward kernel: query by query, all heads of a query together, so that
// locations, weights and output are streamed once, and neighbouring rows of the
// values are read while they are in the cache.

#pragma once

#include "buffer.h"
#include "kernels.h"
#include "points.h"

namespace vit_adapter {
namespace cpu {
namespace VIT_ADAPTER_ISA {
namespace {

constexpr int kAllCorners = 15;

// Where and how strongly points sample, one number per point in each array.
template <typename T>
struct Samples {
  const T* corner_weight;  // of corner 0; the array of each further corner
  int64_t next_corner;     // starts this many elements after the previous one
  const Index<T>* columns; // of the map: tokens from row to row of corners
  const Index<T>* token;   // of corner 0; meaningless where it is outside
  const Index<T>* corners; // bit c is set if corner c is inside the map
};

// The samples of all M * L * P points of a query, and of the next query, whose
// values are prefetched meanwhile. They are computed for whole vectors of
// points before any value is read, so the sums over channels need no arithmetic
// on coordinates.
template <typename T>
class QueryPoints {
 public:
  explicit QueryPoints(const Problem& problem)
      : count_(problem.heads * problem.levels * problem.points),
        row_(padded<T>(count_)),
        scalars_(kScalars * row_),
        indices_(kIndices * row_) {
    const int64_t per_head = problem.levels * problem.points;
    for (int64_t i = 0; i < row_; ++i) {
      // Padding after the last point is computed like a point, but not used.
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

  // Takes the locations (M, L, P, 2) and weights (M, L, P) of a query and puts
  // its samples into one of two slots.
  void fill(int slot, const T* locations, const T* weights) {
    T* const x = scalar(kX);
    T* const y = scalar(kY);
    T* const weight = scalar(kWeight);
    for (int64_t i = 0; i < count_; ++i) {
      x[i] = locations[2 * i];
      y[i] = locations[2 * i + 1];
      weight[i] = weights[i];
    }
    for (int64_t i = 0; i < count_; i += kMaxLanes<T>) {
      locate(slot, i);
    }
  }

  // The samples in a slot from point `first` on.
  VIT_ADAPTER_INLINE_METHOD Samples<T> samples(int slot, int64_t first) const {
    const T* const scalars = scalars_.data() + first;
    const Index<T>* const indices = indices_.data() + first;
    return {
        scalars + (kCornerWeight + 4 * slot) * row_,
        row_,
        indices + kColumns * row_,
        indices + (kToken + 2 * slot) * row_,
        indices + (kCorners + 2 * slot) * row_};
  }

 private:
  // Rows of scalars_ and of indices_. Each slot has its own four corner
  // weights, tokens and corners.
  enum { kWidth, kHeight, kX, kY, kWeight, kCornerWeight, kScalars = 13 };
  enum { kRows, kColumns, kStart, kToken, kCorners, kIndices = 7 };

  // A vector of points, from point i on.
  VIT_ADAPTER_INLINE_METHOD void locate(int slot, int64_t i) {
    const auto at = positions_of<T>(
        load_all(scalar(kX) + i),
        load_all(scalar(kY) + i),
        load_all(scalar(kWidth) + i),
        load_all(scalar(kHeight) + i));
    const auto weights = corner_weights(
        at.fraction_x,
        at.fraction_y,
        load_all(scalar(kWeight) + i));
    T* const corner_weight = scalar(kCornerWeight + 4 * slot) + i;
    store<kMaxLanes<T>>(corner_weight, weights.w0);
    store<kMaxLanes<T>>(corner_weight + row_, weights.w1);
    store<kMaxLanes<T>>(corner_weight + 2 * row_, weights.w2);
    store<kMaxLanes<T>>(corner_weight + 3 * row_, weights.w3);

    constexpr int kLanes = kMaxLanes<T>;
    const auto columns = load_same<kLanes>(index(kColumns) + i);
    const auto start = load_same<kLanes>(index(kStart) + i);
    store_same<kLanes>(
        index(kToken + 2 * slot) + i,
        Indices<T>(start + at.top * columns + at.left));
    const Indices<T> left = at.sampled & (at.left >= 0);
    const Indices<T> right = at.sampled & (at.left + 1 < columns);
    const Indices<T> top = at.top >= 0;
    const Indices<T> bottom = at.top + 1 < load_same<kLanes>(index(kRows) + i);
    store_same<kLanes>(
        index(kCorners + 2 * slot) + i,
        Indices<T>(
            (top & left & 1) | (top & right & 2) | (bottom & left & 4) |
            (bottom & right & 8)));
  }

  VIT_ADAPTER_INLINE_METHOD T* scalar(int row) {
    return scalars_.data() + row * row_;
  }
  VIT_ADAPTER_INLINE_METHOD Index<T>* index(int row) {
    return indices_.data() + row * row_;
  }

  const int64_t count_, row_; // points, and elements of a row
  Buffer<T> scalars_;
  Buffer<Index<T>> indices_;
};

// The points of one head and the values they sample.
template <typename Storage, typename T>
struct HeadSum {
  Samples<T> points;
  int64_t count;        // of points
  const Storage* value; // of this image and head, token 0
  int64_t stride;       // elements from token to token
  Storage* output;

  // Sums kVectors * kLanes channels; the accumulators stay in registers.
  template <int kLanes, int kVectors>
  VIT_ADAPTER_INLINE_METHOD void block(int64_t channel) const {
    // Read in place of corners outside the map: multiplying the values there by
    // zero would give NaN if one of them were infinite.
    alignas(64) static const Storage zeros[kLanes * kVectors] = {};
    // Two chains of additions, since a single one would be bound by latency.
    Vec<T, kLanes> upper[kVectors] = {}, lower[kVectors] = {};
    for (int64_t i = 0; i < count; ++i) {
      const int corners = static_cast<int>(points.corners[i]);
      if (corners == 0) {
        continue;
      }
      const Storage* p0 = value + points.token[i] * stride + channel;
      const Storage* p1 = p0 + stride;
      const Storage* p2 = p0 + points.columns[i] * stride;
      const Storage* p3 = p2 + stride;
      if (__builtin_expect(corners != kAllCorners, 0)) {
        p0 = corners & 1 ? p0 : zeros;
        p1 = corners & 2 ? p1 : zeros;
        p2 = corners & 4 ? p2 : zeros;
        p3 = corners & 8 ? p3 : zeros;
      }
      const T* const weight = points.corner_weight + i;
      const T w0 = weight[0];
      const T w1 = weight[points.next_corner];
      const T w2 = weight[2 * points.next_corner];
      const T w3 = weight[3 * points.next_corner];
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

// How many levels are prefetched one query ahead: all up to the last one whose
// values do not stay in the second-level cache from query to query, or which
// has so many tokens that a query mostly reads values that no earlier query has
// read. For the remaining levels, prefetching would cost time.
template <typename Storage>
int64_t levels_ahead(const Problem& problem) {
  constexpr int64_t kCachedBytes = 2 << 20;
  const int64_t token = problem.heads * problem.dim * sizeof(Storage);
  int64_t level = problem.levels;
  for (; level > 0; --level) {
    const int64_t* const shape = problem.spatial_shapes + 2 * (level - 1);
    const int64_t tokens = shape[0] * shape[1];
    if (tokens * token > kCachedBytes || 2 * tokens >= problem.queries) {
      break;
    }
  }
  return level;
}

// Prefetches what `count` points of one head will read.
template <typename Storage, typename T>
VIT_ADAPTER_INLINE void fetch_corners(
    const Samples<T>& points,
    int64_t count,
    const Storage* value, // as in HeadSum
    int64_t stride,
    int64_t dim) {
  for (int64_t i = 0; i < count; ++i) {
    const Storage* const top = value + points.token[i] * stride;
    const Storage* const bottom = top + points.columns[i] * stride;
    prefetch(top, dim);
    prefetch(top + stride, dim);
    prefetch(bottom, dim);
    prefetch(bottom + stride, dim);
  }
}

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
  const int64_t ahead = levels_ahead<Storage>(problem) * problem.points;
  const Storage* const values = static_cast<const Storage*>(problem.value);
  const T* const locations = static_cast<const T*>(problem.locations);
  const T* const weights = static_cast<const T*>(problem.weights);
  QueryPoints<T> points(problem);
  const auto fill = [&](int64_t row) {
    const int64_t first = row * per_query;
    points.fill(row & 1, locations + 2 * first, weights + first);
  };
  const auto values_of = [&](int64_t row) {
    return values + row / problem.queries * problem.tokens * stride;
  };

  fill(begin);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t next = row + 1 < end ? row + 1 : row;
    if (next != row) {
      fill(next);
    }
    const Storage* const value = values_of(row);
    const Storage* const next_value = values_of(next);
    for (int64_t head = 0; head < problem.heads; ++head) {
      const int64_t first = head * per_head;
      fetch_corners(
          points.samples(next & 1, first),
          ahead,
          next_value + head * dim,
          stride,
          dim);
      const HeadSum<Storage, T> sum{
          points.samples(row & 1, first),
          per_head,
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
