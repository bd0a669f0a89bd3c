// What all device kernels share: sizes, 128-bit loads and stores, and the
// position of a point. No ATen here or in any .cuh file.
//
// B batch, S tokens, M heads, D channels per head, Q queries, L levels,
// P points. A row is one head of one query.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "../ms_deform_attn_math.h"

#define VIT_ADAPTER_DEVICE static __device__ __forceinline__
#define VIT_ADAPTER_METHOD __device__ __forceinline__

namespace vit_adapter {
namespace cuda {

constexpr int kMaxLevels = 32;

struct Level {
  int32_t height, width;
  int32_t first_token; // in S
  int32_t first_cell;  // of (height + 1) * (width + 1); see deterministic.cuh
};

// Passed as a kernel argument, so that no launch waits for a copy.
struct Problem {
  int64_t batch, tokens, queries;
  int32_t heads, dim, num_levels, points;
  Level levels[kMaxLevels];

  __host__ __device__ int64_t stride() const { // from token to token
    return int64_t(heads) * dim;
  }
  __host__ __device__ int32_t points_per_row() const {
    return num_levels * points;
  }
  __host__ __device__ uint32_t rows() const { // of one image
    return uint32_t(queries * heads);
  }
};

// The type of the arithmetic on values of a storage type.
template <typename Storage>
struct ArithmeticOf {
  using type = float;
};
template <>
struct ArithmeticOf<double> {
  using type = double;
};

VIT_ADAPTER_DEVICE float widen(float number) {
  return number;
}
VIT_ADAPTER_DEVICE double widen(double number) {
  return number;
}
VIT_ADAPTER_DEVICE float widen(__half number) {
  return __half2float(number);
}
VIT_ADAPTER_DEVICE float widen(__nv_bfloat16 number) {
  return __bfloat162float(number);
}

VIT_ADAPTER_DEVICE void narrow(float number, float& target) {
  target = number;
}
VIT_ADAPTER_DEVICE void narrow(double number, double& target) {
  target = number;
}
VIT_ADAPTER_DEVICE void narrow(float number, __half& target) {
  target = __float2half_rn(number);
}
VIT_ADAPTER_DEVICE void narrow(float number, __nv_bfloat16& target) {
  target = __float2bfloat16_rn(number);
}

// Neighbouring channels that one instruction loads or stores.
template <typename Storage, int kChannels>
struct alignas(sizeof(Storage) * kChannels) Pack {
  Storage channel[kChannels];
};

template <int kChannels, typename Storage, typename T>
VIT_ADAPTER_DEVICE void load(const Storage* source, T (&target)[kChannels]) {
  const auto pack = *reinterpret_cast<const Pack<Storage, kChannels>*>(source);
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    target[i] = widen(pack.channel[i]);
  }
}

template <int kChannels, typename Storage, typename T>
VIT_ADAPTER_DEVICE void store(Storage* target, const T (&source)[kChannels]) {
  Pack<Storage, kChannels> pack;
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    narrow(source[i], pack.channel[i]);
  }
  if constexpr (sizeof(pack) == sizeof(uint4)) {
    // Explicit, because the compiler stores a pack channel by channel.
    uint4 word;
    memcpy(&word, &pack, sizeof(word));
    __stwb(reinterpret_cast<uint4*>(target), word);
  } else {
    *reinterpret_cast<Pack<Storage, kChannels>*>(target) = pack;
  }
}

// floor() of a coordinate that fits an int.
template <typename T>
VIT_ADAPTER_DEVICE int32_t floor_to_int(T coordinate) {
  const int32_t truncated = static_cast<int32_t>(coordinate);
  return truncated - (coordinate < static_cast<T>(truncated) ? 1 : 0);
}

// A point in the pixels of its level.
template <typename T>
struct Position {
  bool touches;      // if false, nothing is sampled and the rest is zero
  int32_t left, top; // the pixel of corner 0
  T fraction_x, fraction_y;

  // Whether corner c (0 top left ... 3 bottom right) is in the map.
  VIT_ADAPTER_METHOD bool inside(const Level& level, int corner) const {
    const int32_t x = left + (corner & 1), y = top + (corner >> 1);
    return x >= 0 && y >= 0 && x < level.width && y < level.height;
  }
  VIT_ADAPTER_METHOD int64_t token(const Level& level, int corner) const {
    const int32_t x = left + (corner & 1), y = top + (corner >> 1);
    return level.first_token + y * level.width + x;
  }
};

template <typename T>
VIT_ADAPTER_DEVICE Position<T>
position_of(const Level& level, T location_x, T location_y) {
  const T width = T(level.width), height = T(level.height);
  const T x = pixel_coordinate(location_x, width);
  const T y = pixel_coordinate(location_y, height);
  if (!touches_map(x, y, width, height)) {
    return {false, 0, 0, T(0), T(0)};
  }
  const int32_t left = floor_to_int(x), top = floor_to_int(y);
  return {true, left, top, x - T(left), y - T(top)};
}

} // namespace cuda
} // namespace vit_adapter
