// How the lanes of a row share its points: each lane computes one point, and
// the others get what they need to load its pixels by shuffles.

#pragma once

#include "device.cuh"

namespace vit_adapter {
namespace cuda {

constexpr uint32_t kWarp = 0xffffffffu;

// The four pixels of a point. Offset is uint32_t if an image has fewer than
// 2^31 elements, otherwise int64_t. The first pixel may lie before the map,
// where uint32_t wraps around; adding to it wraps back.
template <typename T, typename Offset>
struct Footprint {
  Offset first; // from the image's first token to the top left pixel
  Offset row;   // from a pixel to the one below
  T weight[4];  // times the attention weight; zero for a pixel outside the map

  VIT_ADAPTER_METHOD Offset offset(int corner, Offset stride) const {
    return first + (corner & 1 ? stride : 0) + (corner & 2 ? row : 0);
  }
};

template <typename Offset, typename T>
VIT_ADAPTER_DEVICE Footprint<T, Offset> footprint_of(
    const Level& level,
    const Position<T>& position,
    T attention,
    Offset stride) {
  const auto weights =
      corner_weights(position.fraction_x, position.fraction_y, attention);
  return {
      static_cast<Offset>(position.token(level)) * stride,
      static_cast<Offset>(level.width) * stride,
      {position.inside(level, 0) ? weights.w0 : T(0),
       position.inside(level, 1) ? weights.w1 : T(0),
       position.inside(level, 2) ? weights.w2 : T(0),
       position.inside(level, 3) ? weights.w3 : T(0)}};
}

// The footprint that a lane of this row has worked out.
template <int kLanes, typename T, typename Offset>
VIT_ADAPTER_DEVICE Footprint<T, Offset> footprint_from(
    const Footprint<T, Offset>& mine,
    int lane) {
  return {
      __shfl_sync(kWarp, mine.first, lane, kLanes),
      __shfl_sync(kWarp, mine.row, lane, kLanes),
      {__shfl_sync(kWarp, mine.weight[0], lane, kLanes),
       __shfl_sync(kWarp, mine.weight[1], lane, kLanes),
       __shfl_sync(kWarp, mine.weight[2], lane, kLanes),
       __shfl_sync(kWarp, mine.weight[3], lane, kLanes)}};
}

// The pixels of two points: loads without branches, so that all are in flight
// before the first is needed. Pixels that are not read are zero.
template <int kChannels, typename Storage, typename Points, typename Reads>
VIT_ADAPTER_DEVICE void load_pixels(
    const Points (&points)[2],
    const Storage* value, // of this image, head and channel
    decltype(Points::row) stride,
    const Reads& reads, // of a point and a corner
    Word<Storage, kChannels> (&pixels)[2][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int point = i / 4, corner = i % 4;
    pixels[point][corner] = {};
    if (reads(point, corner)) {
      pixels[point][corner] =
          load_word<kChannels>(value + points[point].offset(corner, stride));
    }
  }
}

} // namespace cuda
} // namespace vit_adapter
