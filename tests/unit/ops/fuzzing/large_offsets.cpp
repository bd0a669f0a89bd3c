// Tensors of at least 2^32 elements, of which only a window is ever touched:
// memory is reserved, and pages are allocated as they are used.

#include <sys/mman.h>

#include <cstdio>
#include <functional>
#include <new>
#include <random>

#include "../cuda_emulation/launches.h"
#include "kernels.h"

namespace {

// Zeros, without memory until they are touched.
template <typename T>
class Sparse {
 public:
  explicit Sparse(int64_t count) : bytes_(count * sizeof(T)) {
    void* const memory = mmap(
        nullptr,
        bytes_,
        PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
        -1,
        0);
    if (memory == MAP_FAILED) {
      throw std::bad_alloc();
    }
    data_ = static_cast<T*>(memory);
  }
  ~Sparse() {
    munmap(data_, bytes_);
  }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;

  T* data() {
    return data_;
  }
  T& operator[](int64_t i) {
    return data_[i];
  }

 private:
  size_t bytes_;
  T* data_;
};

// A small problem of one image, and its place in a large one: in the last
// image, level by level in the lower right corner of the large maps.
struct Window {
  Case small;
  int64_t batch;
  std::vector<int64_t> shapes;

  // The token in the large image of a token in the small one.
  int64_t token(int64_t small_token) const {
    int64_t start = 0;
    for (int64_t level = 0;; ++level) {
      const int64_t height = shapes[2 * level], width = shapes[2 * level + 1];
      const int64_t rows = small.shapes[2 * level];
      const int64_t columns = small.shapes[2 * level + 1];
      if (small_token < rows * columns) {
        const int64_t y = height - rows + small_token / columns;
        const int64_t x = width - columns + small_token % columns;
        return start + y * width + x;
      }
      small_token -= rows * columns;
      start += height * width;
    }
  }
  int64_t tokens() const {
    return token(small.tokens() - 1) + 1;
  }
};

// Storage is also the arithmetic's type.
template <typename Storage>
class Check {
 public:
  Check(const Window& window, Type type)
      : w_(window),
        c_(window.small),
        type_(type),
        first_token_((w_.batch - 1) * w_.tokens()),
        first_row_((w_.batch - 1) * c_.queries),
        first_point_((w_.batch - 1) * c_.num_points()),
        value_(w_.batch * w_.tokens() * c_.stride()),
        grad_value_(w_.batch * w_.tokens() * c_.stride()),
        gathered_(w_.batch * w_.tokens() * c_.stride()),
        grad_output_(w_.batch * c_.queries * c_.stride()),
        output_(w_.batch * c_.queries * c_.stride()),
        locations_(2 * w_.batch * c_.num_points()),
        grad_locations_(2 * w_.batch * c_.num_points()),
        weights_(w_.batch * c_.num_points()),
        grad_weights_(w_.batch * c_.num_points()),
        expected_(evaluate(c_)) {
    for (int64_t t = 0; t < c_.tokens(); ++t) {
      for (int64_t i = 0; i < c_.stride(); ++i) {
        value_[element(t) + i] = Storage(c_.value[t * c_.stride() + i]);
      }
    }
    for (size_t i = 0; i < c_.grad_output.size(); ++i) {
      grad_output_[first_row_ * c_.stride() + i] = Storage(c_.grad_output[i]);
    }
    for_each_point(c_, [&](int64_t point, int64_t level, int64_t, int64_t) {
      weights_[first_point_ + point] = Storage(c_.weights[point]);
      for (const int axis : {0, 1}) { // x, y
        const int64_t side = 2 * level + 1 - axis;
        const double small = double(c_.shapes[side]),
                     large = double(w_.shapes[side]);
        const double pixel =
            c_.locations[2 * point + axis] * small + large - small;
        locations_[2 * (first_point_ + point) + axis] = Storage(pixel / large);
      }
    });
  }

  std::string on_cpu(const vit_adapter::cpu::Kernels& kernels) {
    const vit_adapter::cpu::Problem problem{
        w_.batch,
        w_.tokens(),
        c_.heads,
        c_.dim,
        c_.queries,
        c_.levels(),
        c_.points,
        w_.shapes.data(),
        value_.data(),
        locations_.data(),
        weights_.data()};
    kernels.forward[int(type_)](
        problem,
        output_.data(),
        first_row_,
        first_row_ + c_.queries);
    const vit_adapter::cpu::Gradients gradients{
        grad_output_.data(),
        grad_value_.data(),
        grad_locations_.data(),
        grad_weights_.data()};
    // Only the last head, since every task has memory for the largest map; and
    // no map larger than its window, since maps are copied whole.
    const auto computed = [&](int64_t level, int64_t head) {
      return head == c_.heads - 1 &&
          w_.shapes[2 * level] == c_.shapes[2 * level];
    };
    const int64_t end = w_.batch * c_.heads * c_.levels();
    for (int64_t level = 0; level < c_.levels(); ++level) {
      if (computed(level, c_.heads - 1)) {
        const int64_t task = end - c_.levels() + level;
        kernels.backward[int(type_)](problem, gradients, task, task + 1);
      }
    }
    return difference(kernels.instruction_set, grad_value_, computed);
  }

  std::string on_device() {
    using namespace emulation;
    const emulation::Problem problem = make_problem(
        w_.batch,
        c_.heads,
        c_.dim,
        c_.queries,
        c_.points,
        w_.shapes);
    const Arrays<Storage> arrays{
        value_.data(),
        grad_output_.data(),
        locations_.data(),
        weights_.data(),
        output_.data(),
        gathered_.data(),
        grad_value_.data(),
        grad_locations_.data(),
        grad_weights_.data()};
    std::string found;
    vit_adapter::cuda::choose_variant<Storage>(problem, {}, [&](auto variant) {
      found = on_device<decltype(variant)>(problem, arrays);
    });
    return found;
  }

 private:
  template <typename V>
  std::string on_device(
      const emulation::Problem& problem,
      const emulation::Arrays<Storage>& arrays) {
    using namespace emulation;
    const int64_t first_row = first_row_ * c_.heads;
    const Share rows{first_row, first_row + c_.queries * c_.heads};
    forward<V>(problem, arrays, rows);
    backward<V>(problem, arrays, rows);

    const int64_t end = first_point_ + c_.num_points();
    const int64_t cells = vit_adapter::cuda::cells_per_head(problem);
    Sparse<int64_t> keys(end), starts(w_.batch * c_.heads * cells + 1);
    cell_keys(problem, locations_.data(), keys.data(), rows);
    std::vector<int64_t> order;
    for (int64_t i = first_point_; i < end; ++i) {
      order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return keys[a] < keys[b];
    });
    // Cells before the first used one begin at 0, as do those never written.
    const int64_t last_cell = w_.batch * c_.heads * cells;
    int64_t cell = keys[order[0]];
    for (int64_t i = 0; i < int64_t(order.size()); ++i) {
      for (; cell < keys[order[i]]; ++cell) {
        starts[cell + 1] = i;
      }
    }
    for (; cell < last_cell; ++cell) {
      starts[cell + 1] = int64_t(order.size());
    }
    const auto sorted =
        sorted_points(problem, locations_.data(), weights_.data(), order);
    for (int64_t t = 0; t < c_.tokens(); ++t) {
      const int64_t item = (first_token_ + w_.token(t)) * c_.heads;
      const Share share{item, item + c_.heads};
      gather<V>(problem, arrays, sorted, starts.data(), share);
    }
    const auto all = [](int64_t, int64_t) { return true; };
    const std::string found = difference("scattering", grad_value_, all);
    return found.empty() ? difference("gathering", gathered_, all) : found;
  }

  // The element of the large arrays where a small token begins.
  int64_t element(int64_t small_token) const {
    return (first_token_ + w_.token(small_token)) * c_.stride();
  }

  // What differs from the results of the small problem, in the gradients of
  // the levels and heads that are compared.
  template <typename Counts>
  std::string difference(
      const char* by,
      Sparse<Storage>& grad_value,
      const Counts& counts) {
    std::string found;
    const auto compare = [&](const char* what, double actual, double expected) {
      // Coordinates in large maps lose precision.
      const double allowed =
          (type_ == Type::kFloat64 ? 1e-9 : 1e-3) * (1 + std::abs(expected));
      if (!(std::abs(actual - expected) <= allowed)) {
        found = std::string(what) + " by " + by + ": " +
            std::to_string(actual) + ", expected " + std::to_string(expected);
      }
    };
    for (size_t i = 0; i < expected_.output.size(); ++i) {
      compare(
          "output",
          output_[first_row_ * c_.stride() + i],
          expected_.output[i]);
    }
    for_each_point(c_, [&](int64_t point, int64_t level, int64_t, int64_t row) {
      if (!counts(level, row / c_.dim % c_.heads)) {
        return;
      }
      const int64_t i = first_point_ + point;
      compare("grad_weights", grad_weights_[i], expected_.grad_weights[point]);
      for (const int axis : {0, 1}) {
        const int64_t side = 2 * level + 1 - axis;
        const double scale = double(w_.shapes[side]) / double(c_.shapes[side]);
        compare(
            "grad_locations",
            grad_locations_[2 * i + axis] / scale,
            expected_.grad_locations[2 * point + axis]);
      }
    });
    int64_t t = 0;
    for (int64_t level = 0; level < c_.levels(); ++level) {
      const int64_t end = t + c_.shapes[2 * level] * c_.shapes[2 * level + 1];
      for (; t < end; ++t) {
        for (int64_t i = 0; i < c_.stride(); ++i) {
          if (!counts(level, i / c_.dim)) {
            continue;
          }
          const double expected = expected_.grad_value[t * c_.stride() + i];
          compare("grad_value", grad_value[element(t) + i], expected);
        }
      }
    }
    return found;
  }

  const Window& w_;
  const Case& c_;
  const Type type_;
  const int64_t first_token_, first_row_, first_point_;
  Sparse<Storage> value_, grad_value_, gathered_, grad_output_, output_;
  Sparse<Storage> locations_, grad_locations_, weights_, grad_weights_;
  const Results expected_;
};

Window make_window(
    int64_t batch,
    int64_t heads,
    int64_t dim,
    int64_t queries,
    int64_t points,
    const std::vector<int64_t>& small_shapes,
    const std::vector<int64_t>& shapes) {
  std::mt19937_64 random(0);
  std::normal_distribution<double> normal;
  Case c{1, heads, dim, queries, points, small_shapes, {}, {}, {}, {}};
  const auto fill = [&](Numbers& numbers, int64_t count) {
    numbers.resize(count);
    for (double& number : numbers) {
      number = normal(random);
    }
  };
  fill(c.value, c.tokens() * c.stride());
  fill(c.grad_output, queries * c.stride());
  fill(c.weights, c.num_points());
  c.locations.resize(2 * c.num_points());
  for_each_point(c, [&](int64_t point, int64_t level, int64_t, int64_t) {
    for (const int axis : {0, 1}) {
      // Between pixels, right of the first, so that the large map's lie in the
      // window.
      const int64_t side = c.shapes[2 * level + 1 - axis];
      const double fraction =
          std::uniform_real_distribution<>(0.05, 0.95)(random);
      const double pixel = double(random() % side) + fraction;
      c.locations[2 * point + axis] = (pixel + 0.5) / double(side);
    }
  });
  return {c, batch, shapes};
}

} // namespace

std::string check_large_offsets(const vit_adapter::cpu::Kernels& kernels) {
  // 2^20 images before the last one: 2^32 elements of value, output, locations.
  const std::vector<int64_t> shapes{1, 2, 2, 3};
  const Window images =
      make_window((1 << 20) + 1, 8, 64, 8, 16, shapes, shapes);
  // 2^32 elements in each image, and large maps before the last level.
  const Window maps =
      make_window(2, 64, 64, 3, 2, {4, 4, 2, 3}, {1024, 1024, 2, 3});
  std::string found = Check<float>(images, Type::kFloat32).on_cpu(kernels);
  if (found.empty()) {
    found = Check<float>(images, Type::kFloat32).on_device();
  }
  if (found.empty()) {
    found = Check<double>(maps, Type::kFloat64).on_cpu(kernels);
  }
  if (found.empty()) {
    found = Check<double>(maps, Type::kFloat64).on_device();
  }
  return found;
}
