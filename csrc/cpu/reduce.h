// Sums over the lanes of short vectors, and conversions of whole rows.

#pragma once

#include "vec.h"

namespace vit_adapter {
namespace cpu {
namespace VIT_ADAPTER_ISA {
namespace {

// Four sums at once, {sum of a, ..., sum of d}. This generic form is enough for
// double and for the ends of rows.
template <typename V>
VIT_ADAPTER_INLINE auto sum_lanes(V a, V b, V c, V d) {
  using T = decltype(+a[0]);
  Vec<T, 4> sums = {a[0], b[0], c[0], d[0]};
  for (unsigned i = 1; i < sizeof(V) / sizeof(T); ++i) {
    sums += Vec<T, 4>{a[i], b[i], c[i], d[i]};
  }
  return sums;
}

#if defined(__x86_64__)

// Pairs of vectors are interleaved before they are added: this takes 6 shuffles
// for all four sums, where one sum at a time would take 8.
VIT_ADAPTER_INLINE Vec<float, 4>
sum_lanes(Vec<float, 4> a, Vec<float, 4> b, Vec<float, 4> c, Vec<float, 4> d) {
  const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
  const __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
  return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

#if defined(__AVX2__)
VIT_ADAPTER_INLINE Vec<float, 4>
sum_lanes(Vec<float, 8> a, Vec<float, 8> b, Vec<float, 8> c, Vec<float, 8> d) {
  const __m256 ab = _mm256_hadd_ps(a, b); // {a01 a23 b01 b23 | ...}
  const __m256 cd = _mm256_hadd_ps(c, d);
  const __m256 abcd = _mm256_hadd_ps(ab, cd); // {a b c d | a b c d}
  return _mm_add_ps(
      _mm256_castps256_ps128(abcd),
      _mm256_extractf128_ps(abcd, 1));
}
#endif

#if defined(__AVX512F__)
VIT_ADAPTER_INLINE Vec<float, 8> halves_added(Vec<float, 16> a) {
  return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}

VIT_ADAPTER_INLINE Vec<float, 4> sum_lanes(
    Vec<float, 16> a,
    Vec<float, 16> b,
    Vec<float, 16> c,
    Vec<float, 16> d) {
  const __m512 ab =
      _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd =
      _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 low = _mm512_castpd_ps(
      _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
  const __m512 high = _mm512_castpd_ps(
      _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
  const __m256 abcd = halves_added(_mm512_add_ps(low, high));
  return _mm_add_ps(
      _mm256_castps256_ps128(abcd),
      _mm256_extractf128_ps(abcd, 1));
}
#endif

#endif // __x86_64__

// Copies `count` elements from one type to another.
template <int kLanes, typename From, typename To>
VIT_ADAPTER_INLINE void convert(const From* source, To* target, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store<kLanes>(target + i, load<kLanes>(source + i));
  }
  if constexpr (kLanes > 1) {
    if (i < count) {
      convert<kLanes / 2>(source + i, target + i, count - i);
    }
  }
}

} // namespace
} // namespace VIT_ADAPTER_ISA
} // namespace cpu
} // namespace vit_adapter
