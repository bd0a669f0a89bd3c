// The launches of csrc/cuda/ms_deform_attn_cuda.cu in the emulation, for arrays
// instead of tensors. Blocks are smaller than on a device: fibres need stacks.

#pragma once

#include "cuda_emulation.h"

#include <algorithm>

#include "cuda/backward.cuh"
#include "cuda/deterministic.cuh"
#include "cuda/forward.cuh"

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

// The part of a launch that is run: items of an image, and blocks along y, each
// of which visits every grid_y-th image.
struct Share {
  int64_t first, end;
  unsigned grid_y, first_y, end_y;

  template <typename Kernel>
  void run(int64_t items, Dim threads, const Kernel& kernel) const {
    const unsigned rows = threads.y;
    const Dim size{unsigned((items + rows - 1) / rows), grid_y};
    const Dim from{unsigned(first / rows), first_y};
    const Dim to{unsigned((end + rows - 1) / rows), end_y};
    launch(size, from, to, threads, kernel);
  }
};

// Everything, with fewer blocks than images along y, so that their loop over
// images runs.
inline Share all_of(const Problem& problem, int64_t items) {
  const unsigned y = problem.batch > 1 ? unsigned(problem.batch) - 1 : 1;
  return {0, items, y, 0, y};
}

// One thread per pack of channels.
template <int kChannels>
Dim threads_per_pack(const Problem& problem) {
  return {std::min(unsigned(problem.dim / kChannels), 16u), 3};
}

template <int kChannels, typename Storage>
void forward(const Problem& problem, const Arrays<Storage>& a, Share share) {
  share.run(problem.rows(), threads_per_pack<kChannels>(problem), [&] {
    vit_adapter::cuda::forward_kernel<Storage, kChannels>(
        problem,
        a.value,
        a.locations,
        a.weights,
        a.output);
  });
}

template <int kChannels, typename Storage>
void backward(const Problem& problem, const Arrays<Storage>& a, Share share) {
  unsigned lanes = 1;
  while (lanes < 32 && lanes * kChannels < unsigned(problem.dim)) {
    lanes *= 2;
  }
  share.run(problem.rows(), {lanes, 64 / lanes}, [&] {
    vit_adapter::cuda::backward_kernel<Storage, kChannels, true>(
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

// Writes the cells of points [first, end) to keys, which has room for all.
template <typename T>
void cell_keys(
    const Problem& problem,
    const T* locations,
    int64_t* keys,
    int64_t first,
    int64_t end) {
  constexpr unsigned kThreads = 64;
  const int64_t points =
      problem.batch * problem.rows() * problem.points_per_row();
  launch(
      {unsigned((points + kThreads - 1) / kThreads)},
      {unsigned(first / kThreads), 0},
      {unsigned((end + kThreads - 1) / kThreads), 1},
      {kThreads},
      [&] {
        vit_adapter::cuda::cell_keys_kernel<T, int64_t>(
            problem,
            locations,
            keys,
            points);
      });
}

template <int kChannels, typename Storage>
void gather(
    const Problem& problem,
    const Arrays<Storage>& a,
    const int64_t* order,
    const int64_t* starts,
    Share share) {
  const int64_t items = problem.tokens * problem.heads;
  share.run(items, threads_per_pack<kChannels>(problem), [&] {
    vit_adapter::cuda::gather_kernel<Storage, kChannels>(
        problem,
        a.grad_output,
        a.locations,
        a.weights,
        order,
        starts,
        a.grad_value_gathered);
  });
}

// All kernels on a whole problem.
template <int kChannels, typename Storage>
void run_all(const Problem& problem, const Arrays<Storage>& arrays) {
  forward<kChannels>(problem, arrays, all_of(problem, problem.rows()));
  backward<kChannels>(problem, arrays, all_of(problem, problem.rows()));
  const int64_t points =
      problem.batch * problem.rows() * problem.points_per_row();
  const int64_t cells = problem.batch * problem.heads *
      vit_adapter::cuda::cells_per_head(problem);
  std::vector<int64_t> keys(points), order(points), starts(cells + 1);
  cell_keys(problem, arrays.locations, keys.data(), 0, points);
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
  const int64_t items = problem.tokens * problem.heads;
  gather<kChannels>(
      problem,
      arrays,
      order.data(),
      starts.data(),
      all_of(problem, items));
}

} // namespace emulation
