// Runs device code on the host: the few CUDA primitives that the kernels use.
//
// The threads of a block are fibres that run one after the other. A collective
// waits until every fibre of the block has arrived, and aborts if one returns
// instead: on a GPU that would be a deadlock or a wrong sum. This tests
// arithmetic, indices and collectives, but not races or speed.

#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#define __CUDA_ARCH__ 900    // takes the path of 128-bit reductions
#define CUDART_VERSION 12010 // likewise
#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

namespace emulation {

constexpr size_t kStackBytes = 256 << 10;

struct Fibre {
  ucontext_t context;
  std::vector<char> stack;
  Dim index;
  bool finished = false;
};

inline Dim grid, block, block_index;
inline ucontext_t scheduler;
inline std::vector<std::unique_ptr<Fibre>> fibres;
inline size_t current = 0;
inline std::function<void()> body;
inline std::vector<uint64_t> exchange; // one number per thread of the block

inline void wait_for_all() {
  swapcontext(&fibres[current]->context, &scheduler);
}

inline void enter() {
  body();
  fibres[current]->finished = true;
  swapcontext(&fibres[current]->context, &scheduler);
}

// Makes a fibre from the block's body; stacks are reused.
inline void start(std::unique_ptr<Fibre>& fibre, Dim index) {
  if (!fibre) {
    fibre = std::make_unique<Fibre>();
    fibre->stack.resize(kStackBytes);
  }
#ifdef __SANITIZE_ADDRESS__
  // The last frames on this stack never returned.
  __asan_unpoison_memory_region(fibre->stack.data(), kStackBytes);
#endif
  fibre->index = index;
  fibre->finished = false;
  getcontext(&fibre->context);
  fibre->context.uc_stack.ss_sp = fibre->stack.data();
  fibre->context.uc_stack.ss_size = kStackBytes;
  fibre->context.uc_link = nullptr;
  makecontext(&fibre->context, enter, 0);
}

// Lets every fibre run to its next collective, until all have returned.
inline void run_block() {
  for (size_t finished = 0; finished < fibres.size();) {
    finished = 0;
    for (current = 0; current < fibres.size(); ++current) {
      swapcontext(&scheduler, &fibres[current]->context);
      finished += fibres[current]->finished;
    }
    if (finished != 0 && finished != fibres.size()) {
      std::fprintf(stderr, "a thread returned before a collective\n");
      std::abort();
    }
  }
}

// Runs the blocks [from, to) of a grid of the given size.
template <typename Kernel>
void launch(Dim grid_size, Dim from, Dim to, Dim block_size, Kernel kernel) {
  grid = grid_size;
  block = block_size;
  body = kernel;
  const size_t threads = size_t(block.x) * block.y;
  exchange.assign(threads, 0);
  for (unsigned y = from.y; y < to.y; ++y) {
    for (unsigned x = from.x; x < to.x; ++x) {
      block_index = {x, y};
      fibres.resize(threads);
      for (size_t i = 0; i < threads; ++i) {
        start(fibres[i], {unsigned(i % block.x), unsigned(i / block.x)});
      }
      run_block();
    }
  }
}

} // namespace emulation

#define threadIdx (emulation::fibres[emulation::current]->index)
#define blockIdx (emulation::block_index)
#define blockDim (emulation::block)
#define gridDim (emulation::grid)

using std::min;

namespace emulation {

// The number that the thread `partner` of this block has passed.
template <typename T>
T exchanged(unsigned mask, T number, size_t partner) {
  if (mask != 0xffffffffu || partner >= exchange.size()) {
    std::fprintf(stderr, "shuffle with a lane that is not there\n");
    std::abort();
  }
  std::memcpy(&exchange[current], &number, sizeof(number));
  wait_for_all();
  T result;
  std::memcpy(&result, &exchange[partner], sizeof(result));
  wait_for_all(); // no fibre writes before all have read
  return result;
}

template <typename T>
void check_alignment(const T* address, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) {
    std::fprintf(stderr, "misaligned %s of %zu bytes\n", what, sizeof(T));
    std::abort();
  }
}

} // namespace emulation

template <typename T>
T __shfl_sync(unsigned mask, T number, int lane, int width) {
  const size_t group = emulation::current / width * width;
  return emulation::exchanged(mask, number, group + size_t(lane % width));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T number, int distance) {
  const size_t warp = emulation::current / 32 * 32;
  const size_t lane = emulation::current % 32 ^ size_t(distance);
  return emulation::exchanged(mask, number, warp + lane);
}

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
template <typename T>
T __ldg(const T* source) {
  emulation::check_alignment(source, "load");
  T word;
  std::memcpy(&word, source, sizeof(word));
  return word;
}
template <typename T>
void __stwb(T* target, T word) {
  emulation::check_alignment(target, "store");
  std::memcpy(target, &word, sizeof(word));
}
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

template <typename T>
void atomicAdd(T* target, T amount) {
  *target += amount;
}
inline void atomicAdd(float4* target, float4 amount) {
  emulation::check_alignment(target, "reduction");
  target->x += amount.x;
  target->y += amount.y;
  target->z += amount.z;
  target->w += amount.w;
}
