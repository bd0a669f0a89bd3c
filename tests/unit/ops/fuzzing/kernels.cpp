#include "kernels.h"

#include "../cuda_emulation/launches.h"

#include <algorithm>

using vit_adapter::cuda::ArithmeticOf;

namespace {

template <typename Storage>
struct Tag {
  using type = Storage;
};

template <typename Function>
auto dispatch(Type type, const Function& function) {
  switch (type) {
    case Type::kFloat32:
      return function(Tag<float>());
    case Type::kFloat64:
      return function(Tag<double>());
    case Type::kBFloat16:
      return function(Tag<__nv_bfloat16>());
    default:
      return function(Tag<__half>());
  }
}

// Numbers of one type, up to the very end of their memory.
template <typename Storage>
class Array {
 public:
  explicit Array(size_t count, bool misaligned = false)
      : memory_(count + misaligned), offset_(misaligned) {}
  Array(const Numbers& numbers, bool misaligned = false)
      : Array(numbers.size(), misaligned) {
    using T = typename ArithmeticOf<Storage>::type;
    for (size_t i = 0; i < numbers.size(); ++i) {
      vit_adapter::cuda::narrow(T(numbers[i]), data()[i]);
    }
  }

  Storage* data() {
    return memory_.data() + offset_;
  }
  Numbers numbers() const {
    Numbers result(memory_.size() - offset_);
    for (size_t i = 0; i < result.size(); ++i) {
      result[i] = vit_adapter::cuda::widen(memory_[offset_ + i]);
    }
    return result;
  }

 private:
  std::vector<Storage> memory_;
  size_t offset_;
};

// Calls function(begin, end) for the pieces of [0, count), the last one first.
template <typename Function>
void divided(int64_t count, const Numbers& cuts, const Function& function) {
  std::vector<int64_t> ends{0, count};
  for (const double cut : cuts) {
    ends.push_back(int64_t(cut * double(count)));
  }
  std::sort(ends.begin(), ends.end());
  for (size_t i = ends.size() - 1; i > 0; --i) {
    if (ends[i - 1] < ends[i]) {
      function(ends[i - 1], ends[i]);
    }
  }
}

template <typename Storage>
Results device_results(
    const Case& c,
    bool misaligned,
    int64_t offset_limit,
    Numbers& gathered) {
  using T = typename ArithmeticOf<Storage>::type;
  Array<Storage> value(c.value, misaligned);
  Array<Storage> grad_output(c.grad_output, misaligned);
  Array<T> locations(c.locations), weights(c.weights);
  Array<Storage> output(c.grad_output.size()), grad_gathered(c.value.size());
  Array<T> grad_value(c.value.size()), grad_locations(c.locations.size());
  Array<T> grad_weights(c.weights.size());
  const auto problem = emulation::make_problem(
      c.batch,
      c.heads,
      c.dim,
      c.queries,
      c.points,
      c.shapes);
  const emulation::Arrays<Storage> arrays{
      value.data(),
      grad_output.data(),
      locations.data(),
      weights.data(),
      output.data(),
      grad_gathered.data(),
      grad_value.data(),
      grad_locations.data(),
      grad_weights.data()};
  vit_adapter::cuda::choose_variant<Storage>(
      problem,
      {value.data(), grad_output.data()},
      [&](auto variant) {
        emulation::run_all<decltype(variant)>(problem, arrays);
      },
      offset_limit);
  gathered = grad_gathered.numbers();
  return {
      output.numbers(),
      grad_value.numbers(),
      grad_locations.numbers(),
      grad_weights.numbers()};
}

} // namespace

void round_to(Type type, Case& c) {
  dispatch(type, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    using T = typename ArithmeticOf<Storage>::type;
    c.value = Array<Storage>(c.value).numbers();
    c.grad_output = Array<Storage>(c.grad_output).numbers();
    c.locations = Array<T>(c.locations).numbers();
    c.weights = Array<T>(c.weights).numbers();
  });
}

Results run_on_cpu(
    const Case& c,
    Type type,
    const vit_adapter::cpu::Kernels& kernels,
    const Numbers& cuts,
    bool misaligned) {
  return dispatch(type, [&](auto tag) -> Results {
    using Storage = typename decltype(tag)::type;
    using T = typename ArithmeticOf<Storage>::type;
    Array<Storage> value(c.value, misaligned);
    Array<Storage> grad_output(c.grad_output, misaligned);
    Array<T> locations(c.locations, misaligned), weights(c.weights, misaligned);
    Array<Storage> output(c.grad_output.size()), grad_value(c.value.size());
    Array<T> grad_locations(c.locations.size()), grad_weights(c.weights.size());
    const vit_adapter::cpu::Problem problem{
        c.batch,
        c.tokens(),
        c.heads,
        c.dim,
        c.queries,
        c.levels(),
        c.points,
        c.shapes.data(),
        value.data(),
        locations.data(),
        weights.data()};
    divided(c.batch * c.queries, cuts, [&](int64_t begin, int64_t end) {
      kernels.forward[int(type)](problem, output.data(), begin, end);
    });
    const vit_adapter::cpu::Gradients gradients{
        grad_output.data(),
        grad_value.data(),
        grad_locations.data(),
        grad_weights.data()};
    const int64_t tasks = c.batch * c.heads * c.levels();
    divided(tasks, cuts, [&](int64_t begin, int64_t end) {
      kernels.backward[int(type)](problem, gradients, begin, end);
    });
    return {
        output.numbers(),
        grad_value.numbers(),
        grad_locations.numbers(),
        grad_weights.numbers()};
  });
}

Results run_on_device(
    const Case& c,
    Type type,
    bool misaligned,
    int64_t offset_limit,
    Numbers& gathered) {
  return dispatch(type, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    return device_results<Storage>(c, misaligned, offset_limit, gathered);
  });
}
