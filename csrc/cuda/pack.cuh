// Types of values, and loads and stores of neighbouring channels.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#define VIT_ADAPTER_DEVICE static __device__ __forceinline__
#define VIT_ADAPTER_METHOD __device__ __forceinline__

namespace vit_adapter {
namespace cuda {

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

// The same as one word, which is what the instruction moves: the compiler would
// otherwise move a pack channel by channel, or keep its halves in registers of
// their own.
template <int kBytes>
struct WordOf {
  using type = uint4;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<4> {
  using type = unsigned;
};
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <typename Storage, int kChannels>
using Word = typename WordOf<sizeof(Storage) * kChannels>::type;

template <int kChannels, typename Storage>
VIT_ADAPTER_DEVICE Word<Storage, kChannels> load_word(const Storage* source) {
  return __ldg(reinterpret_cast<const Word<Storage, kChannels>*>(source));
}

template <int kChannels, typename Storage, typename T>
VIT_ADAPTER_DEVICE void unpack(
    const Word<Storage, kChannels>& word,
    T (&target)[kChannels]) {
  if constexpr (std::is_same_v<Storage, __nv_bfloat16> && kChannels > 1) {
    // The upper half of a float: one instruction a channel.
    uint32_t pairs[kChannels / 2];
    memcpy(pairs, &word, sizeof(pairs));
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const uint32_t bits =
          i % 2 ? pairs[i / 2] & 0xffff0000u : pairs[i / 2] << 16;
      memcpy(&target[i], &bits, sizeof(bits));
    }
  } else {
    Pack<Storage, kChannels> pack;
    memcpy(&pack, &word, sizeof(pack));
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      target[i] = widen(pack.channel[i]);
    }
  }
}

template <int kChannels, typename Storage, typename T>
VIT_ADAPTER_DEVICE void load(const Storage* source, T (&target)[kChannels]) {
  unpack<kChannels, Storage>(load_word<kChannels>(source), target);
}

template <int kChannels, typename Storage, typename T>
VIT_ADAPTER_DEVICE void store(Storage* target, const T (&source)[kChannels]) {
  Pack<Storage, kChannels> pack;
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    narrow(source[i], pack.channel[i]);
  }
  Word<Storage, kChannels> word;
  memcpy(&word, &pack, sizeof(word));
  __stwb(reinterpret_cast<Word<Storage, kChannels>*>(target), word);
}

// Keeps the compiler from taking a pointer into global memory apart: it would
// add the offset of every load to the parts, in 64 bits, instead of to the
// pointer.
template <typename T>
VIT_ADAPTER_DEVICE T* whole(T* pointer) {
#ifdef __CUDACC__
  asm("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

} // namespace cuda
} // namespace vit_adapter
