// One call of multi-scale deformable attention with every number in double, its
// results, and the definition that computes them point by point.
//
// B batch, S tokens, M heads, D channels per head, Q queries, L levels,
// P points.

#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

using Numbers = std::vector<double>;

struct Case {
  int64_t batch, heads, dim, queries, points;
  std::vector<int64_t> shapes; // H_0, W_0, H_1, W_1, ...
  Numbers value;               // (B, S, M, D)
  Numbers grad_output;         // (B, Q, M, D)
  Numbers locations;           // (B, Q, M, L, P, 2) as (x, y)
  Numbers weights;             // (B, Q, M, L, P)

  int64_t levels() const {
    return int64_t(shapes.size()) / 2;
  }
  int64_t tokens() const {
    int64_t total = 0;
    for (int64_t l = 0; l < levels(); ++l) {
      total += shapes[2 * l] * shapes[2 * l + 1];
    }
    return total;
  }
  int64_t stride() const {
    return heads * dim;
  }
  int64_t num_points() const {
    return batch * queries * heads * levels() * points;
  }
};

struct Results {
  Numbers output, grad_value, grad_locations, grad_weights;
};

// Calls visit(point, level, first token of its map and image, element of its
// row of grad_output and output) for every point.
template <typename Visit>
void for_each_point(const Case& c, const Visit& visit) {
  int64_t point = 0;
  for (int64_t row = 0; row < c.batch * c.queries * c.heads; ++row) {
    int64_t start = row / (c.queries * c.heads) * c.tokens();
    for (int64_t level = 0; level < c.levels(); ++level) {
      for (int64_t p = 0; p < c.points; ++p, ++point) {
        visit(point, level, start, row * c.dim);
      }
      start += c.shapes[2 * level] * c.shapes[2 * level + 1];
    }
  }
}

// Written from the definition, without regard to speed or memory.
inline Results evaluate(const Case& c) {
  Results r{
      Numbers(c.grad_output.size()),
      Numbers(c.value.size()),
      Numbers(c.locations.size()),
      Numbers(c.weights.size())};
  for_each_point(
      c,
      [&](int64_t point, int64_t level, int64_t start, int64_t row) {
        const int64_t height = c.shapes[2 * level],
                      width = c.shapes[2 * level + 1];
        const double x = c.locations[2 * point] * double(width) - 0.5;
        const double y = c.locations[2 * point + 1] * double(height) - 0.5;
        if (!(x > -1 && y > -1 && x < double(width) && y < double(height))) {
          return; // outside the map, infinite or not a number
        }
        for (int corner = 0; corner < 4; ++corner) {
          const bool right = corner & 1, bottom = corner & 2;
          const int64_t column = int64_t(std::floor(x)) + right;
          const int64_t line = int64_t(std::floor(y)) + bottom;
          if (column < 0 || line < 0 || column >= width || line >= height) {
            continue;
          }
          const double from_left = x - std::floor(x),
                       from_top = y - std::floor(y);
          const double across = right ? from_left : 1 - from_left;
          const double down = bottom ? from_top : 1 - from_top;
          const double attention = c.weights[point];
          const int64_t head = row / c.dim % c.heads;
          const int64_t pixel =
              ((start + line * width + column) * c.heads + head) * c.dim;
          double dot = 0;
          for (int64_t d = 0; d < c.dim; ++d) {
            dot += c.value[pixel + d] * c.grad_output[row + d];
            r.output[row + d] += attention * across * down * c.value[pixel + d];
            r.grad_value[pixel + d] +=
                attention * across * down * c.grad_output[row + d];
          }
          r.grad_weights[point] += across * down * dot;
          r.grad_locations[2 * point] +=
              attention * double(width) * (right ? down : -down) * dot;
          r.grad_locations[2 * point + 1] +=
              attention * double(height) * (bottom ? across : -across) * dot;
        }
      });
  return r;
}
