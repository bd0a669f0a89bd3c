// Every kernel that csrc/cuda/ms_deform_attn_cuda.cu launches, without ATen,
// whose headers take most of the compile time.

#include "cuda/backward.cuh"
#include "cuda/deterministic.cuh"
#include "cuda/forward.cuh"
#include "cuda/variant.h"

namespace vit_adapter {
namespace cuda {

// A kernel whose address is taken is compiled.
template <typename... Kernels>
void use(Kernels...) {}

template <typename Storage>
void use_variants(const Problem& problem) {
  choose_variant<Storage>(problem, {}, [](auto variant) {
    using V = decltype(variant);
    using Offset = typename V::Offset;
    constexpr int kChannels = V::kChannels, kLanes = V::kLanes;
    use(forward_kernel<Storage, kChannels, kLanes, Offset>,
        backward_kernel<Storage, kChannels, kLanes, Offset, true>,
        backward_kernel<Storage, kChannels, kLanes, Offset, false>,
        gather_kernel<Storage, kChannels>);
  });
}

void use_all(const Problem& problem) {
  use_variants<float>(problem);
  use_variants<double>(problem);
  use_variants<__half>(problem);
  use_variants<__nv_bfloat16>(problem);
  use(cell_keys_kernel<float, int32_t>,
      cell_keys_kernel<float, int64_t>,
      cell_keys_kernel<double, int32_t>,
      cell_keys_kernel<double, int64_t>,
      sorted_points_kernel<float>,
      sorted_points_kernel<double>);
}

} // namespace cuda
} // namespace vit_adapter
