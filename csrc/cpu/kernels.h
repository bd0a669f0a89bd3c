// What the dispatcher and the kernels of every instruction set agree on.
//
// Kernels see raw pointers to contiguous tensors and no ATen, because they are
// compiled once per instruction set: an inline function of a library header
// compiled with AVX-512 could become the copy that the whole process runs.

#pragma once

#include <cstdint>

namespace vit_adapter {
namespace cpu {

struct Problem {
  int64_t batch, tokens, heads, dim, queries, levels, points;
  const int64_t* spatial_shapes; // (L, 2) as (H, W)
  const void* value;             // (B, S, M, D)
  const void* locations;         // (B, Q, M, L, P, 2) as (x, y)
  const void* weights;           // (B, Q, M, L, P)
};

// Computes rows [begin, end) of the output (B * Q, M * D).
using ForwardKernel =
    void (*)(const Problem&, void* output, int64_t begin, int64_t end);

struct Gradients {
  const void* output; // (B, Q, M * D), an input
  void* value;        // outputs from here on, shaped as the inputs
  void* locations;
  void* weights;
};

// Computes tasks [begin, end) of B * M * L: one level of one head of one image.
// Only one task writes to each part of a gradient, so neither the number of
// threads nor their timing changes a bit of the result.
using BackwardKernel =
    void (*)(const Problem&, const Gradients&, int64_t begin, int64_t end);

enum ValueType { kFloat32, kFloat64, kBFloat16, kFloat16, kNumValueTypes };

struct Kernels {
  const char* instruction_set;
  ForwardKernel forward[kNumValueTypes];
  BackwardKernel backward[kNumValueTypes];
};

extern const Kernels kBaselineKernels;
#ifdef __x86_64__
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

} // namespace cpu
} // namespace vit_adapter
