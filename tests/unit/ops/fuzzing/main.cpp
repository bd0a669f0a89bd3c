// Fuzzes the kernels, or checks them at large offsets.
//
//   fuzzing fuzz <seconds> <seed>
//   fuzzing large
//
// Compiled with sanitizers, so that it stops at a read or write out of bounds.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

#include "kernels.h"

namespace {

using Random = std::mt19937_64;
using vit_adapter::cpu::Kernels;

int64_t whole(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}
double real(Random& random, double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(random);
}
template <typename T, size_t kCount>
T one_of(Random& random, const T (&choices)[kCount]) {
  return choices[whole(random, 0, kCount - 1)];
}

double special(Random& random) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kSpecial[] = {
      std::numeric_limits<double>::quiet_NaN(),
      kInfinity,
      -kInfinity,
      0.0,
      -0.0,
      1e30,
      -1e30,
      3.4e38,
      -3.4e38,
      1e-40,
      2147483648.0,
      -2147483649.0,
      4294967296.0,
      9.3e18,
      1.0};
  return one_of(random, kSpecial);
}

enum class Points { kSmooth, kKinks, kWild };

// A location along an axis of `size` pixels.
double location(Random& random, Points points, int64_t size) {
  const double n = double(size);
  if (points == Points::kWild && whole(random, 0, 2) == 0) {
    return special(random);
  }
  if (points == Points::kKinks) {
    // Centres and edges of pixels, and the border of the map.
    return real(random, 0, 1) < 0.5
        ? double(whole(random, -2, 2 * size + 2)) / (2 * n)
        : (whole(random, 0, 1) ? -0.5 / n : 1 + 0.5 / n);
  }
  const double pixel = double(whole(random, -3, size + 1));
  return (pixel + real(random, 0.01, 0.99) + 0.5) / n;
}

struct Fuzzed {
  Case numbers;
  Type type;
  Points points;
  bool wild; // values, weights and gradients may be anything
};

Fuzzed draw(Random& random) {
  Fuzzed f;
  f.type = Type(whole(random, 0, 3));
  f.points = Points(whole(random, 0, 2));
  f.wild = whole(random, 0, 4) == 0;
  Case& c = f.numbers;
  constexpr int64_t kDims[] =
      {1, 3, 7, 8, 16, 20, 31, 32, 33, 40, 64, 65, 96, 256};
  c.dim = whole(random, 0, 3) ? one_of(random, kDims) : whole(random, 1, 80);
  c.batch = whole(random, 1, 3);
  c.heads = whole(random, 1, c.dim > 64 ? 2 : 4);
  c.queries = whole(random, 1, 13);
  c.points =
      whole(random, 0, 15) ? whole(random, 1, 5) : whole(random, 60, 140);
  if (c.points > 5) {
    c.queries = whole(random, 1, 2);
  }
  for (int64_t levels = whole(random, 1, 5); levels > 0; --levels) {
    const bool line = whole(random, 0, 7) == 0;
    c.shapes.push_back(line ? 1 : whole(random, 1, 6));
    c.shapes.push_back(line ? whole(random, 1, 90) : whole(random, 1, 6));
  }
  const auto fill = [&](Numbers& numbers, int64_t count) {
    std::normal_distribution<double> normal;
    numbers.resize(count);
    for (double& number : numbers) {
      number =
          f.wild && whole(random, 0, 9) == 0 ? special(random) : normal(random);
    }
  };
  fill(c.value, c.batch * c.tokens() * c.stride());
  fill(c.grad_output, c.batch * c.queries * c.stride());
  fill(c.weights, c.num_points());
  c.locations.resize(2 * c.num_points());
  for_each_point(c, [&](int64_t point, int64_t level, int64_t, int64_t) {
    c.locations[2 * point] =
        location(random, f.points, c.shapes[2 * level + 1]);
    c.locations[2 * point + 1] =
        location(random, f.points, c.shapes[2 * level]);
  });
  round_to(f.type, c);
  return f;
}

double largest(const Numbers& numbers) {
  double result = 0;
  for (const double number : numbers) {
    result = std::max(result, std::abs(number));
  }
  return result;
}

// Whether two arrays agree within an absolute and a relative error; reports
// where they do not.
bool agree(
    const char* what,
    const Numbers& actual,
    const Numbers& expected,
    double absolute,
    double relative) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const double allowed = absolute + relative * std::abs(expected[i]);
    if (!(std::abs(actual[i] - expected[i]) <= allowed)) {
      std::fprintf(
          stderr,
          "%s[%zu] is %.9g, expected %.9g +- %.3g\n",
          what,
          i,
          actual[i],
          expected[i],
          allowed);
      return false;
    }
  }
  return true;
}

// Bounds of rounding errors: of sums, and of coordinates of up to `side`
// pixels.
bool compare(const Fuzzed& f, const Results& expected, const Results& actual) {
  const Case& c = f.numbers;
  double side = 1;
  for (const int64_t length : c.shapes) {
    side = std::max(side, double(length));
  }
  const double eps = resolution(arithmetic(f.type));
  const double narrow = resolution(f.type);
  const double per_row = double(c.levels() * c.points);
  const double all = double(c.queries) * per_row;
  const double value = largest(c.value), given = largest(c.grad_output);
  const double weight = largest(c.weights);
  const double dot = 4 * double(c.dim) * value * given;
  const double point = eps * (2 * side + double(c.dim) + 16) * dot;
  const double in_sum = 4 * eps * (2 * side + 16);
  const double tiny = 1e-30 + (f.type == Type::kFloat16 ? 0x1p-24 : 0);
  return agree(
             "output",
             actual.output,
             expected.output,
             in_sum * per_row * weight * value * (1 + eps * per_row) + tiny,
             narrow + eps * per_row) &
      agree("grad_value",
            actual.grad_value,
            expected.grad_value,
            (in_sum + eps * all) * all * weight * given + tiny,
            narrow) &
      agree("grad_weights",
            actual.grad_weights,
            expected.grad_weights,
            point,
            eps) &
      // At a kink the location's gradient jumps, and both sides are correct.
      (f.points == Points::kKinks ||
       agree(
           "grad_locations",
           actual.grad_locations,
           expected.grad_locations,
           point * side * weight,
           eps));
}

bool try_case(Random& random, const std::vector<const Kernels*>& all_kernels) {
  const Fuzzed f = draw(random);
  const Results expected = evaluate(f.numbers);
  bool good = true;
  for (const Kernels* kernels : all_kernels) {
    Numbers cuts(whole(random, 0, 3));
    for (double& cut : cuts) {
      cut = real(random, 0, 1);
    }
    const bool misaligned = whole(random, 0, 1);
    const Results actual =
        run_on_cpu(f.numbers, f.type, *kernels, cuts, misaligned);
    if (!f.wild && !compare(f, expected, actual)) {
      std::fprintf(
          stderr,
          "by the CPU kernels, %s\n",
          kernels->instruction_set);
      good = false;
    }
  }
  Results actual;
  Numbers gathered;
  const bool misaligned = whole(random, 0, 3) == 0;
  const int64_t offset_limit = whole(random, 0, 3) == 0 ? 0 : INT64_MAX;
  actual = run_on_device(f.numbers, f.type, misaligned, offset_limit, gathered);
  for (const bool scattered : {true, false}) {
    if (!f.wild && !compare(f, expected, actual)) {
      std::fprintf(
          stderr,
          "by the device code, %s\n",
          scattered ? "scattered" : "gathered");
      good = false;
    }
    actual.grad_value = gathered;
  }
  if (!good) {
    const Case& c = f.numbers;
    std::fprintf(
        stderr,
        "B %ld M %ld D %ld Q %ld L %ld P %ld, %s, points of kind %d\n",
        long(c.batch),
        long(c.heads),
        long(c.dim),
        long(c.queries),
        long(c.levels()),
        long(c.points),
        kTypeNames[int(f.type)],
        int(f.points));
  }
  return good;
}

// The kernels that are compiled in and can run on this machine.
std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> kernels;
#ifdef FUZZ_BASELINE
  kernels.push_back(&vit_adapter::cpu::kBaselineKernels);
#endif
#ifdef FUZZ_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    kernels.push_back(&vit_adapter::cpu::kAvx2Kernels);
  }
#endif
#ifdef FUZZ_AVX512
  if (__builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    kernels.push_back(&vit_adapter::cpu::kAvx512Kernels);
  }
#endif
  return kernels;
}

int fuzz(double seconds, uint64_t seed) {
  using Clock = std::chrono::steady_clock;
  const auto kernels = usable_kernels();
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  long cases = 0;
  for (; cases == 0 || Clock::now() < end; ++cases) {
    // Every case has its own seed: the printed one repeats it immediately.
    Random random(seed + cases);
    if (!try_case(random, kernels)) {
      std::fprintf(
          stderr,
          "repeat it with seed %llu\n",
          (unsigned long long)(seed + cases));
      return 1;
    }
  }
  std::printf("%ld cases, no finding; CPU kernels:", cases);
  for (const Kernels* each : kernels) {
    std::printf(" %s", each->instruction_set);
  }
  std::printf("\n");
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], "fuzz") == 0) {
    return fuzz(std::atof(argv[2]), std::strtoull(argv[3], nullptr, 10));
  }
  if (argc == 2 && std::strcmp(argv[1], "large") == 0) {
    for (const Kernels* kernels : usable_kernels()) {
      const std::string problem = check_large_offsets(*kernels);
      if (!problem.empty()) {
        std::fprintf(stderr, "%s\n", problem.c_str());
        return 1;
      }
    }
    return 0;
  }
  std::fprintf(
      stderr,
      "usage: fuzzing fuzz <seconds> <seed> | fuzzing large\n");
  return 2;
}
