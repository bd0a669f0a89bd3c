// Short vectors, and the loads and stores that widen 16-bit values to float.
//
// Written with the vector extensions of GCC and Clang. Everything is in the
// namespace of its instruction set and has internal linkage (see kernels.h).

#pragma once

#include <cstdint>
#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC warns about its own intrinsics, which start from undefined vectors.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

#include "../ms_deform_attn_math.h"

#if defined(__AVX512F__)
#define VIT_ADAPTER_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VIT_ADAPTER_VECTOR_BYTES 32
#else
#define VIT_ADAPTER_VECTOR_BYTES 16
#endif

#define VIT_ADAPTER_INLINE_METHOD inline __attribute__((always_inline))

namespace vit_adapter {
namespace cpu {
namespace VIT_ADAPTER_ISA {
namespace {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
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

template <typename T, int kLanes>
struct VecOf {
  using type __attribute__((vector_size(sizeof(T) * kLanes))) = T;
};
template <typename T, int kLanes>
using Vec = typename VecOf<T, kLanes>::type;

template <typename T>
constexpr int kMaxLanes = VIT_ADAPTER_VECTOR_BYTES / sizeof(T);

template <typename To, typename From>
VIT_ADAPTER_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast between different sizes");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

template <int kLanes, typename T>
VIT_ADAPTER_INLINE Vec<T, kLanes> load_same(const T* source) {
  Vec<T, kLanes> vector;
  __builtin_memcpy(&vector, source, sizeof(vector));
  return vector;
}

template <int kLanes, typename T>
VIT_ADAPTER_INLINE void store_same(T* target, Vec<T, kLanes> vector) {
  __builtin_memcpy(target, &vector, sizeof(vector));
}

// Prefetches `count` elements into the second-level cache; the first-level one
// is too small. Any address is allowed, even an invalid one.
template <typename T>
VIT_ADAPTER_INLINE void prefetch(const T* elements, int64_t count) {
  constexpr int64_t kCacheLine = 64;
  const char* const bytes = reinterpret_cast<const char*>(elements);
  const int64_t size = count * static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < size; i += kCacheLine) {
    __builtin_prefetch(bytes + i, 0, 2);
  }
}

// load() and store() convert between a storage type and its arithmetic type.

template <int kLanes>
VIT_ADAPTER_INLINE Vec<float, kLanes> load(const float* source) {
  return load_same<kLanes>(source);
}
template <int kLanes>
VIT_ADAPTER_INLINE Vec<double, kLanes> load(const double* source) {
  return load_same<kLanes>(source);
}
template <int kLanes>
VIT_ADAPTER_INLINE void store(float* target, Vec<float, kLanes> vector) {
  store_same<kLanes>(target, vector);
}
template <int kLanes>
VIT_ADAPTER_INLINE void store(double* target, Vec<double, kLanes> vector) {
  store_same<kLanes>(target, vector);
}

template <int kLanes>
VIT_ADAPTER_INLINE Vec<float, kLanes> load(const bfloat16* source) {
  const auto bits = load_same<kLanes>(&source->bits);
  const auto wide = __builtin_convertvector(bits, Vec<uint32_t, kLanes>);
  return bit_cast<Vec<float, kLanes>>(wide << 16);
}

// Rounds to nearest even; a NaN becomes a quiet NaN.
template <int kLanes>
VIT_ADAPTER_INLINE void store(bfloat16* target, Vec<float, kLanes> vector) {
  const auto bits = bit_cast<Vec<uint32_t, kLanes>>(vector);
  const auto rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const auto is_nan = bit_cast<Vec<uint32_t, kLanes>>(vector != vector);
  const auto result = (rounded & ~is_nan) | ((bits | 0x400000) & is_nan);
  store_same<kLanes>(
      &target->bits,
      __builtin_convertvector(result >> 16, Vec<uint16_t, kLanes>));
}

// Half to float with integer arithmetic: multiplying by 2^112 rebases the
// exponent and also normalizes subnormals.
template <int kLanes>
VIT_ADAPTER_INLINE Vec<float, kLanes> load(const float16* source) {
#if defined(__AVX512F__)
  if constexpr (kLanes == 16) {
    const auto half = load_same<16>(&source->bits);
    return bit_cast<Vec<float, 16>>(_mm512_cvtph_ps(bit_cast<__m256i>(half)));
  }
#endif
#if defined(__F16C__)
  if constexpr (kLanes == 8) {
    const auto half = load_same<8>(&source->bits);
    return bit_cast<Vec<float, 8>>(_mm256_cvtph_ps(bit_cast<__m128i>(half)));
  }
#endif
  const auto half = __builtin_convertvector(
      load_same<kLanes>(&source->bits),
      Vec<uint32_t, kLanes>);
  const auto magnitude = half & 0x7fff;
  const auto scaled = bit_cast<Vec<float, kLanes>>(magnitude << 13) * 0x1p112f;
  const auto is_special =
      bit_cast<Vec<uint32_t, kLanes>>(magnitude >= 0x7c00); // infinite or NaN
  return bit_cast<Vec<float, kLanes>>(
      bit_cast<Vec<uint32_t, kLanes>>(scaled) | (is_special & 0x7f800000) |
      ((half & 0x8000) << 16));
}

// Float to half, rounding to nearest even. Below 2^-14, adding 0.5 leaves the
// rounded digits of the subnormal at the end of the significand.
VIT_ADAPTER_INLINE uint16_t half_bits(float number) {
  const uint32_t bits = bit_cast<uint32_t>(number);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00; // NaN
  } else if (magnitude >= 0x477ff000) {
    half = 0x7c00; // rounds to infinity
  } else if (magnitude < 0x38800000) {
    half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  } else {
    half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

template <int kLanes>
VIT_ADAPTER_INLINE void store(float16* target, Vec<float, kLanes> vector) {
#if defined(__AVX512F__)
  if constexpr (kLanes == 16) {
    const __m256i half =
        _mm512_cvtps_ph(bit_cast<__m512>(vector), _MM_FROUND_TO_NEAREST_INT);
    store_same<16>(&target->bits, bit_cast<Vec<uint16_t, 16>>(half));
    return;
  }
#endif
#if defined(__F16C__)
  if constexpr (kLanes == 8) {
    const __m128i half =
        _mm256_cvtps_ph(bit_cast<__m256>(vector), _MM_FROUND_TO_NEAREST_INT);
    store_same<8>(&target->bits, bit_cast<Vec<uint16_t, 8>>(half));
    return;
  }
#endif
  for (int i = 0; i < kLanes; ++i) {
    target[i].bits = half_bits(vector[i]);
  }
}

} // namespace
} // namespace VIT_ADAPTER_ISA
} // namespace cpu
} // namespace vit_adapter
