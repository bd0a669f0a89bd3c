// Every kernel that csrc/cuda/ms_deform_attn_cuda.cu launches, without ATen,
// whose headers take most of the compile time.

#include "cuda/backward.cuh"
#include "cuda/deterministic.cuh"
#include "cuda/forward.cuh"

namespace vit_adapter {
namespace cuda {

#define INSTANTIATE(Storage, kChannels, T)                             \
  template __global__ void forward_kernel<Storage, kChannels>(         \
      const Problem,                                                   \
      const Storage*,                                                  \
      const T*,                                                        \
      const T*,                                                        \
      Storage*);                                                       \
  template __global__ void backward_kernel<Storage, kChannels, true>(  \
      const Problem,                                                   \
      const Storage*,                                                  \
      const Storage*,                                                  \
      const T*,                                                        \
      const T*,                                                        \
      T*,                                                              \
      T*,                                                              \
      T*);                                                             \
  template __global__ void backward_kernel<Storage, kChannels, false>( \
      const Problem,                                                   \
      const Storage*,                                                  \
      const Storage*,                                                  \
      const T*,                                                        \
      const T*,                                                        \
      T*,                                                              \
      T*,                                                              \
      T*);                                                             \
  template __global__ void gather_kernel<Storage, kChannels>(          \
      const Problem,                                                   \
      const Storage*,                                                  \
      const T*,                                                        \
      const T*,                                                        \
      const int64_t*,                                                  \
      const int64_t*,                                                  \
      Storage*);

INSTANTIATE(float, 4, float)
INSTANTIATE(float, 1, float)
INSTANTIATE(double, 2, double)
INSTANTIATE(double, 1, double)
INSTANTIATE(__half, 8, float)
INSTANTIATE(__half, 1, float)
INSTANTIATE(__nv_bfloat16, 8, float)
INSTANTIATE(__nv_bfloat16, 1, float)

#define INSTANTIATE_KEYS(T, Key)                     \
  template __global__ void cell_keys_kernel<T, Key>( \
      const Problem,                                 \
      const T*,                                      \
      Key*,                                          \
      int64_t);

INSTANTIATE_KEYS(float, int32_t)
INSTANTIATE_KEYS(float, int64_t)
INSTANTIATE_KEYS(double, int32_t)
INSTANTIATE_KEYS(double, int64_t)

} // namespace cuda
} // namespace vit_adapter
