// Replaces CUDA's header: the type and the two conversions that are used.
#pragma once

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 number) {
  const uint32_t bits = uint32_t(number.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}
inline __nv_bfloat16 __float2bfloat16_rn(float number) { // finite numbers only
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
