// Which of the compiled kernels fits a call: the channels that a lane loads at
// once, the lanes of a row, and the type of offsets. No ATen here.

#pragma once

#include <cstdint>
#include <initializer_list>

#include "device.cuh"

namespace vit_adapter {
namespace cuda {

template <int channels, int lanes, typename OffsetType>
struct Variant {
  static constexpr int kChannels = channels;
  static constexpr int kLanes = lanes;
  using Offset = OffsetType;
};

// Elements of an image from which on offsets need 64 bits.
constexpr int64_t kOffsetLimit = int64_t(1) << 31;

// The widest load, up to 16 bytes, that divides heads of so many bytes and the
// addresses where arrays begin.
inline int load_bytes(
    int64_t head_bytes,
    std::initializer_list<const void*> bases) {
  uint64_t bits = uint64_t(head_bytes);
  for (const void* base : bases) {
    bits |= reinterpret_cast<uintptr_t>(base);
  }
  int bytes = 16;
  while (bits % bytes != 0) {
    bytes /= 2;
  }
  return bytes;
}

// Calls function(Variant). Loads narrower than 16 bytes and 64-bit offsets are
// rare, so they have one number of lanes; a row with more channels takes them
// in several steps.
template <typename Storage, typename Function>
void choose_variant(
    const Problem& problem,
    std::initializer_list<const void*> bases, // of arrays of heads
    const Function& function,
    int64_t offset_limit = kOffsetLimit) {
  constexpr int kSize = sizeof(Storage);
  const int bytes = load_bytes(int64_t(problem.dim) * kSize, bases);
  if constexpr (kSize <= 4) {
    if (problem.tokens * problem.stride < offset_limit) {
      const int64_t loads = int64_t(problem.dim) * kSize / bytes;
      if (bytes == 16 && loads <= 4) {
        return function(Variant<16 / kSize, 4, uint32_t>());
      }
      if (bytes == 16 && loads <= 8) {
        return function(Variant<16 / kSize, 8, uint32_t>());
      }
      if (bytes == 16) {
        return function(Variant<16 / kSize, 16, uint32_t>());
      }
      if (bytes == 8) {
        return function(Variant<8 / kSize, 8, uint32_t>());
      }
      if (bytes == 4) {
        return function(Variant<4 / kSize, 8, uint32_t>());
      }
      return function(Variant<1, 8, uint32_t>());
    }
  }
  if (bytes == 16) {
    return function(Variant<16 / kSize, 8, int64_t>());
  }
  return function(Variant<1, 8, int64_t>());
}

} // namespace cuda
} // namespace vit_adapter
