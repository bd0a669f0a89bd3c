// The launches of csrc/cuda/ms_deform_attn_cuda.cu in the emulation, for arrays
// instead of tensors. Blocks are smaller than on a device: fibres need stacks.

#pragma once

#include "cuda_emulation.h"

#include <algorithm>

#include "cuda/backward.cuh"
#include "cuda/deterministic.cuh"
#include "cuda/forward.cuh"
#include "cuda/variant.h"

namespace emulation {

using vit_adapter::cuda::ArithmeticOf;
using vit_adapter::cuda::Problem;

inline Problem make_problem(
    int64_t batch,
    int64_t heads,
    int64_t dim,
    int64_t queries,
    int64_t points,
    const std::vector<int64_t>& shapes) { // H_0, W_0, H_1, W_1, ...
  Problem problem{};
  problem.batch = batch;
  problem.heads = int32_t(heads);
  problem.dim = int32_t(dim);
  problem.queries = queries;
  problem.points = int32_t(points);
  problem.num_levels = int32_t(shapes.size() / 2);
  problem.stride = heads * dim;
  problem.rows = uint32_t(batch * queries * heads);
  problem.row_points = int32_t(problem.num_levels * points);
  int32_t token = 0, cell = 0;
  for (int level = 0; level < problem.num_levels; ++level) {
    const int32_t height = int32_t(shapes[2 * level]);
    const int32_t width = int32_t(shapes[2 * level + 1]);
    problem.levels[level] = {height, width, token, cell};
    token += height * width;
    cell += (height + 1) * (width + 1);
  }
  problem.tokens = token;
  return problem;
}

template <typename Storage>
struct Arrays {
  using T = typename ArithmeticOf<Storage>::type;
  const Storage *value, *grad_output;
  const T *locations, *weights;
  Storage *output, *grad_value_gathered;
  T *grad_value, *grad_locations, *grad_weights; // grad_value starts as zeros
};

constexpr unsigned kThreads = 64; // of a block

// The rows or pixels of a launch that are run.
struct Share {
  int64_t first, end;

  template <typename Kernel>
  void run(unsigned lanes, unsigned steps, const Kernel& kernel) const {
    const unsigned rows = std::max(1u, kThreads / lanes);
    launch(
        {unsigned((end + rows - 1) / rows), steps},
        {unsigned(first / rows), 0},
        {unsigned((end + rows - 1) / rows), steps},
        {lanes, rows},
        kernel);
  }
};

template <typename V, typename Storage>
void forward(const Problem& problem, const Arrays<Storage>& a, Share share) {
  constexpr unsigned kStep = V::kLanes * V::kChannels;
  share.run(V::kLanes, (problem.dim + kStep - 1) / kStep, [&] {
    vit_adapter::cuda::
        forward_kernel<Storage, V::kChannels, V::kLanes, typename V::Offset>(
            problem,
            a.value,
            a.locations,
            a.weights,
            a.output);
  });
}

template <typename V, typename Storage>
void backward(const Problem& problem, const Arrays<Storage>& a, Share share) {
  using namespace vit_adapter::cuda;
  share.run(V::kLanes, 1, [&] {
    backward_kernel<Storage, V::kChannels, V::kLanes, typename V::Offset, true>(
        problem,
        a.grad_output,
        a.value,
        a.locations,
        a.weights,
        a.grad_value,
        a.grad_locations,
        a.grad_weights);
  });
}

// Writes the cells of the points of some rows to keys, which has room for all.
template <typename T>
void cell_keys(
    const Problem& problem,
    const T* locations,
    int64_t* keys,
    Share share) {
  share.run(8, 1, [&] {
    vit_adapter::cuda::cell_keys_kernel<T, int64_t>(problem, locations, keys);
  });
}

// The points in an order.
template <typename T>
std::vector<vit_adapter::cuda::SortedPoint<T>> sorted_points(
    const Problem& problem,
    const T* locations,
    const T* weights,
    const std::vector<int64_t>& order) {
  const int64_t count = int64_t(order.size());
  std::vector<vit_adapter::cuda::SortedPoint<T>> sorted(count);
  const unsigned blocks = unsigned((count + kThreads - 1) / kThreads);
  launch({blocks, 1}, {0, 0}, {blocks, 1}, {kThreads, 1}, [&] {
    vit_adapter::cuda::sorted_points_kernel<T>(
        problem,
        locations,
        weights,
        order.data(),
        sorted.data(),
        count);
  });
  return sorted;
}

template <typename V, typename Storage, typename T>
void gather(
    const Problem& problem,
    const Arrays<Storage>& a,
    const std::vector<vit_adapter::cuda::SortedPoint<T>>& sorted,
    const int64_t* starts,
    Share share) {
  share.run(std::min(problem.dim / V::kChannels, 16), 1, [&] {
    vit_adapter::cuda::gather_kernel<Storage, V::kChannels>(
        problem,
        a.grad_output,
        sorted.data(),
        starts,
        a.grad_value_gathered);
  });
}

// All kernels of one variant on a whole problem.
template <typename V, typename Storage>
void run_all(const Problem& problem, const Arrays<Storage>& arrays) {
  forward<V>(problem, arrays, {0, problem.rows});
  backward<V>(problem, arrays, {0, problem.rows});
  const int64_t points = int64_t(problem.rows) * problem.row_points;
  const int64_t cells = problem.batch * problem.heads *
      vit_adapter::cuda::cells_per_head(problem);
  std::vector<int64_t> keys(points), order(points), starts(cells + 1);
  cell_keys(problem, arrays.locations, keys.data(), {0, problem.rows});
  for (int64_t i = 0; i < points; ++i) {
    order[i] = i;
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return keys[a] < keys[b];
  });
  std::sort(keys.begin(), keys.end());
  for (int64_t cell = 0; cell <= cells; ++cell) {
    starts[cell] =
        std::lower_bound(keys.begin(), keys.end(), cell) - keys.begin();
  }
  const int64_t pixels = problem.batch * problem.tokens * problem.heads;
  const auto sorted =
      sorted_points(problem, arrays.locations, arrays.weights, order);
  gather<V>(problem, arrays, sorted, starts.data(), {0, pixels});
}

} // namespace emulation
