// The backward kernel: one task is one level of one head of one image.
//
// A task copies its map of values into a small buffer of its own, which is
// contiguous, in the type of the arithmetic and has a border of zeros. It sums
// the gradient of the values in a second such buffer. So no sampled point needs
// a test for the border, rows of a power-of-two number of heads do not compete
// for the same cache sets, 16-bit gradients are summed in float, and no two
// tasks ever write to the same number.

#pragma once

#include "buffer.h"
#include "kernels.h"
#include "point_batch.h"

namespace vit_adapter {
namespace cpu {
namespace VIT_ADAPTER_ISA {
namespace {

// The four pixels of one sampled point.
template <typename T>
struct Corners {
  const T* value; // of corner 0 in the bordered map
  T* gradient;
  int64_t right, down; // elements to the next column and row
  T weights[4];        // bilinear weights times attention

  // Adds the output's gradient to the four pixels' gradients and returns its
  // products with their values in dots, both for channels [channel, dim).
  template <int kLanes>
  VIT_ADAPTER_INLINE_METHOD void add(
      const T* output_gradient,
      int64_t channel,
      int64_t dim,
      Vec<T, 4>& dots) const {
    Vec<T, kLanes> sum[4] = {};
    const int64_t end = channel + (dim - channel) / kLanes * kLanes;
    if (channel < end) {
      for (; channel < end; channel += kLanes) {
        const auto given = load<kLanes>(output_gradient + channel);
        for (int c = 0; c < 4; ++c) {
          const int64_t offset =
              channel + (c & 1 ? right : 0) + (c & 2 ? down : 0);
          sum[c] += given * load<kLanes>(value + offset);
          T* const target = gradient + offset;
          store<kLanes>(target, load<kLanes>(target) + weights[c] * given);
        }
      }
      dots += sum_lanes(sum[0], sum[1], sum[2], sum[3]);
    }
    if constexpr (kLanes > 1) {
      if (channel < dim) {
        add<kLanes / 2>(output_gradient, channel, dim, dots);
      }
    }
  }
};

// One level of one head of one image.
template <int kDim, typename Storage>
class LevelTask {
  using T = typename ArithmeticOf<Storage>::type;

 public:
  LevelTask(const Problem& problem, const Gradients& gradients)
      : problem_(problem),
        gradients_(gradients),
        value_(largest_map(problem) * dim()),
        gradient_(largest_map(problem) * dim()),
        given_(dim()) {}

  void run(int64_t image, int64_t head, int64_t level) {
    int64_t start = 0;
    for (int64_t before = 0; before < level; ++before) {
      start += problem_.spatial_shapes[2 * before] *
          problem_.spatial_shapes[2 * before + 1];
    }
    const BorderedMap map{
        problem_.spatial_shapes[2 * level],
        problem_.spatial_shapes[2 * level + 1]};
    const int64_t offset =
        (image * problem_.tokens + start) * stride() + head * dim();
    const Storage* value = static_cast<const Storage*>(problem_.value) + offset;
    pack(map, value, stride(), dim(), value_.data());
    __builtin_memset(gradient_.data(), 0, map.tokens() * dim() * sizeof(T));

    // Take as many queries as fit in a batch; split queries with many points.
    const int64_t points = problem_.points;
    const int64_t capacity = PointBatch<T>::kCapacity;
    const int64_t queries_at_once = points < capacity ? capacity / points : 1;
    for (int64_t query = 0; query < problem_.queries;
         query += queries_at_once) {
      const int64_t left = problem_.queries - query;
      const int64_t queries = left < queries_at_once ? left : queries_at_once;
      for (int64_t point = 0; point < points; point += capacity) {
        const int64_t rest = points - point;
        const int64_t each = rest < capacity ? rest : capacity;
        run_batch(map, {image, head, level, query, queries, point, each});
      }
    }
    Storage* target = static_cast<Storage*>(gradients_.value) + offset;
    unpack(map, gradient_.data(), stride(), dim(), target);
  }

 private:
  // Not members, so that kDim is a constant where it is used.
  VIT_ADAPTER_INLINE_METHOD int64_t dim() const {
    return kDim ? kDim : problem_.dim;
  }
  VIT_ADAPTER_INLINE_METHOD int64_t stride() const { // from token to token
    return problem_.heads * dim();
  }

  struct Range {
    int64_t image, head, level, query, queries, point, points;
  };

  static int64_t largest_map(const Problem& problem) {
    int64_t largest = 0;
    for (int64_t level = 0; level < problem.levels; ++level) {
      const BorderedMap map{
          problem.spatial_shapes[2 * level],
          problem.spatial_shapes[2 * level + 1]};
      largest = map.tokens() > largest ? map.tokens() : largest;
    }
    return largest;
  }

  // Index in (B, Q, M, L, P) of the first point of the range's n-th query.
  VIT_ADAPTER_INLINE_METHOD int64_t
  point_index(const Range& range, int64_t n) const {
    const int64_t query = range.image * problem_.queries + range.query + n;
    const int64_t head = query * problem_.heads + range.head;
    const int64_t level = head * problem_.levels + range.level;
    return level * problem_.points + range.point;
  }

  // The output's gradient for the range's head and its n-th query.
  VIT_ADAPTER_INLINE_METHOD const Storage* row_gradient(
      const Range& range,
      int64_t n) const {
    const int64_t query = range.image * problem_.queries + range.query + n;
    return static_cast<const Storage*>(gradients_.output) + query * stride() +
        range.head * dim();
  }

  void run_batch(const BorderedMap& map, const Range& range) {
    const int count = static_cast<int>(range.queries * range.points);
    const T* locations = static_cast<const T*>(problem_.locations);
    const T* weights = static_cast<const T*>(problem_.weights);
    for (int64_t n = 0, i = 0; n < range.queries; ++n) {
      const int64_t index = point_index(range, n);
      for (int64_t p = 0; p < range.points; ++p, ++i) {
        batch_.x[i] = locations[2 * (index + p)];
        batch_.y[i] = locations[2 * (index + p) + 1];
        batch_.weight[i] = weights[index + p];
      }
    }
    batch_.locate(map, count);
    add_points(map, range);
    batch_.differentiate(map, count);
    T* locations_gradient = static_cast<T*>(gradients_.locations);
    T* weights_gradient = static_cast<T*>(gradients_.weights);
    for (int64_t n = 0, i = 0; n < range.queries; ++n) {
      const int64_t index = point_index(range, n);
      for (int64_t p = 0; p < range.points; ++p, ++i) {
        locations_gradient[2 * (index + p)] = batch_.x[i];
        locations_gradient[2 * (index + p) + 1] = batch_.y[i];
        weights_gradient[index + p] = batch_.weight[i];
      }
    }
  }

  void add_points(const BorderedMap& map, const Range& range) {
    // The rows of a head are too far apart for the hardware prefetcher.
    constexpr int64_t kQueriesAhead = 6;
    const int64_t last = problem_.queries - 1 - range.query;
    for (int64_t n = 0, i = 0; n < range.queries; ++n) {
      const int64_t ahead = n + kQueriesAhead < last ? n + kQueriesAhead : last;
      prefetch(row_gradient(range, ahead), dim());
      convert<kMaxLanes<T>>(row_gradient(range, n), given_.data(), dim());
      for (int64_t p = 0; p < range.points; ++p, ++i) {
        Vec<T, 4> dots = {};
        if (batch_.sampled[i]) {
          const int64_t offset = batch_.token[i] * dim();
          const Corners<T> corners{
              value_.data() + offset,
              gradient_.data() + offset,
              dim(),
              map.row() * dim(),
              {batch_.corner_weight[0][i],
               batch_.corner_weight[1][i],
               batch_.corner_weight[2][i],
               batch_.corner_weight[3][i]}};
          corners.template add<kMaxLanes<T>>(given_.data(), 0, dim(), dots);
        }
        for (int c = 0; c < 4; ++c) {
          batch_.dot[c][i] = dots[c];
        }
      }
    }
  }

  const Problem& problem_;
  const Gradients& gradients_;
  Buffer<T> value_, gradient_; // bordered maps
  Buffer<T> given_;            // the output's gradient of one query and head
  PointBatch<T> batch_;
};

template <int kDim, typename Storage>
void backward_tasks(
    const Problem& problem,
    const Gradients& gradients,
    int64_t begin,
    int64_t end) {
  LevelTask<kDim, Storage> task(problem, gradients);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t image_and_head = i / problem.levels;
    task.run(
        image_and_head / problem.heads,
        image_and_head % problem.heads,
        i % problem.levels);
  }
}

template <typename Storage>
void backward(
    const Problem& problem,
    const Gradients& gradients,
    int64_t begin,
    int64_t end) {
  switch (problem.dim) {
    case 32:
      return backward_tasks<32, Storage>(problem, gradients, begin, end);
    case 64:
      return backward_tasks<64, Storage>(problem, gradients, begin, end);
    default:
      return backward_tasks<0, Storage>(problem, gradients, begin, end);
  }
}

} // namespace
} // namespace VIT_ADAPTER_ISA
} // namespace cpu
} // namespace vit_adapter
