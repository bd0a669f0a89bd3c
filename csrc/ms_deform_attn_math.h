// Bilinear sampling of multi-scale deformable attention and its gradients: the
// arithmetic of one point, shared by the CPU and the CUDA kernels.
//
// Locations in [0, 1] span a map from edge to edge, pixel centres are at half
// integers (align_corners=False), and the map is surrounded by zeros. The four
// pixels around a point are numbered 0 top left, 1 top right, 2 bottom left,
// 3 bottom right; "fraction" is the distance of the point from pixel 0.

#pragma once

// Static and always inline: the linker must never keep a copy compiled for one
// instruction set for all of them.
#if defined(__CUDACC__)
#define VIT_ADAPTER_INLINE static __host__ __device__ __forceinline__
#elif !defined(VIT_ADAPTER_INLINE)
#define VIT_ADAPTER_INLINE static inline __attribute__((always_inline))
#endif

namespace vit_adapter {

// T is a float, a double, or (on the CPU) a vector of either.

// The coordinate of a location, in pixels of an axis of `size` pixels.
template <typename T>
VIT_ADAPTER_INLINE T pixel_coordinate(T location, T size) {
  return location * size - 0.5f;
}

// Whether any of the four pixels around the point is in the map. False for NaN,
// so no caller ever turns a NaN into an index.
template <typename T>
VIT_ADAPTER_INLINE auto touches_map(T x, T y, T width, T height) {
  return (x > -1.0f) & (y > -1.0f) & (x < width) & (y < height);
}

template <typename T>
struct CornerWeights {
  T w0, w1, w2, w3;
};

// Bilinear weights of the four pixels, times `scale`.
template <typename T>
VIT_ADAPTER_INLINE CornerWeights<T>
corner_weights(T fraction_x, T fraction_y, T scale) {
  const T bottom = fraction_y * scale;
  const T top = scale - bottom;
  const T top_right = top * fraction_x;
  const T bottom_right = bottom * fraction_x;
  return {top - top_right, top_right, bottom - bottom_right, bottom_right};
}

template <typename T>
struct PointGradient {
  T x, y, weight;
};

// Gradients of one point: with respect to its location in [0, 1] and to its
// attention weight. dot0..dot3 are the products of the output's gradient with
// the values of the four pixels (zero for a pixel outside the map), summed
// over the channels.
template <typename T>
VIT_ADAPTER_INLINE PointGradient<T> point_gradient(
    T dot0,
    T dot1,
    T dot2,
    T dot3,
    T fraction_x,
    T fraction_y,
    T attention,
    T width,
    T height) {
  const T slope_top = dot1 - dot0; // along x, in the upper and lower row
  const T slope_bottom = dot3 - dot2;
  const T top = dot0 + slope_top * fraction_x;
  const T bottom = dot2 + slope_bottom * fraction_x;
  return {
      attention * width * (slope_top + (slope_bottom - slope_top) * fraction_y),
      attention * height * (bottom - top),
      top + (bottom - top) * fraction_y};
}

} // namespace vit_adapter
