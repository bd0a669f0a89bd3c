// Runs the device kernels on arrays in files.
//
//   emulation <folder> <float|double|half|bfloat16> <channels per thread>
//             B S M D Q L P  H_0 W_0 H_1 W_1 ...
//
// reads value, grad_output, locations, weights from <folder>, and writes
// output, grad_value (by scattering), grad_value_gathered, grad_locations,
// grad_weights.

#include "cuda_emulation.h"

#include <algorithm>
#include <fstream>
#include <numeric>
#include <string>

#include "cuda/backward.cuh"
#include "cuda/deterministic.cuh"
#include "cuda/forward.cuh"

using namespace vit_adapter::cuda;

namespace {

std::string folder;

template <typename T>
std::vector<T> read(const std::string& name, size_t count) {
  std::vector<T> array(count);
  std::ifstream file(folder + "/" + name, std::ios::binary);
  file.read(reinterpret_cast<char*>(array.data()), count * sizeof(T));
  if (!file) {
    std::fprintf(
        stderr,
        "cannot read %zu numbers of %s\n",
        count,
        name.c_str());
    std::exit(1);
  }
  return array;
}

template <typename T>
void write(const std::string& name, const std::vector<T>& array) {
  std::ofstream file(folder + "/" + name, std::ios::binary);
  file.write(
      reinterpret_cast<const char*>(array.data()),
      array.size() * sizeof(T));
}

Dim grid_for(const Problem& problem, int64_t items, unsigned per_block) {
  // Fewer blocks than images along y, so that the loop over images runs.
  const unsigned images = problem.batch > 1 ? unsigned(problem.batch) - 1 : 1;
  return {unsigned((items + per_block - 1) / per_block), images};
}

template <typename T>
std::vector<int64_t> sort_by_cell(
    const Problem& problem,
    const std::vector<T>& locations,
    std::vector<int64_t>& starts) {
  const int64_t count = int64_t(locations.size()) / 2;
  std::vector<int64_t> keys(count), order(count);
  emulation::launch({unsigned(count + 63) / 64}, {64}, [&] {
    cell_keys_kernel<T, int64_t>(problem, locations.data(), keys.data(), count);
  });
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return keys[a] < keys[b];
  });
  const int64_t cells = problem.batch * problem.heads * cells_per_head(problem);
  for (int64_t cell = 0; cell <= cells; ++cell) {
    starts.push_back(std::count_if(keys.begin(), keys.end(), [&](int64_t key) {
      return key < cell;
    }));
  }
  return order;
}

template <typename Storage, int kChannels>
void run(const Problem& problem) {
  using T = typename ArithmeticOf<Storage>::type;
  const size_t values = problem.batch * problem.tokens * problem.stride();
  const size_t outputs = problem.batch * problem.queries * problem.stride();
  const size_t points = problem.batch * problem.queries * problem.heads *
      problem.points_per_row();
  const auto value = read<Storage>("value", values);
  const auto grad_output = read<Storage>("grad_output", outputs);
  const auto locations = read<T>("locations", 2 * points);
  const auto weights = read<T>("weights", points);
  std::vector<Storage> output(outputs), gathered(values);
  std::vector<T> grad_value(values), grad_locations(2 * points);
  std::vector<T> grad_weights(points);

  const unsigned packs = unsigned(problem.dim / kChannels);
  const Dim block{std::min(packs, 16u), 3};
  emulation::launch(grid_for(problem, problem.rows(), 3), block, [&] {
    forward_kernel<Storage, kChannels>(
        problem,
        value.data(),
        locations.data(),
        weights.data(),
        output.data());
  });
  unsigned lanes = 1;
  while (lanes < 32 && lanes * kChannels < unsigned(problem.dim)) {
    lanes *= 2;
  }
  const unsigned rows = 64 / lanes;
  emulation::launch(
      grid_for(problem, problem.rows(), rows),
      {lanes, rows},
      [&] {
        backward_kernel<Storage, kChannels, true>(
            problem,
            grad_output.data(),
            value.data(),
            locations.data(),
            weights.data(),
            grad_value.data(),
            grad_locations.data(),
            grad_weights.data());
      });
  std::vector<int64_t> starts;
  const auto order = sort_by_cell(problem, locations, starts);
  const int64_t items = problem.tokens * problem.heads;
  emulation::launch(grid_for(problem, items, 3), block, [&] {
    gather_kernel<Storage, kChannels>(
        problem,
        grad_output.data(),
        locations.data(),
        weights.data(),
        order.data(),
        starts.data(),
        gathered.data());
  });
  write("output", output);
  write("grad_value", grad_value);
  write("grad_value_gathered", gathered);
  write("grad_locations", grad_locations);
  write("grad_weights", grad_weights);
}

template <typename Storage>
void run(const Problem& problem, int channels) {
  if (channels == 1) {
    run<Storage, 1>(problem);
  } else {
    run<Storage, 16 / sizeof(Storage)>(problem);
  }
}

} // namespace

int main(int argc, char** argv) {
  folder = argv[1];
  const std::string type = argv[2];
  const int channels = std::atoi(argv[3]);
  Problem problem{};
  problem.batch = std::atoll(argv[4]);
  problem.tokens = std::atoll(argv[5]);
  problem.heads = std::atoi(argv[6]);
  problem.dim = std::atoi(argv[7]);
  problem.queries = std::atoll(argv[8]);
  problem.num_levels = std::atoi(argv[9]);
  problem.points = std::atoi(argv[10]);
  int32_t token = 0, cell = 0;
  for (int i = 11, level = 0; i + 1 < argc; i += 2, ++level) {
    const int32_t height = std::atoi(argv[i]), width = std::atoi(argv[i + 1]);
    problem.levels[level] = {height, width, token, cell};
    token += height * width;
    cell += (height + 1) * (width + 1);
  }
  if (type == "float") {
    run<float>(problem, channels);
  } else if (type == "double") {
    run<double>(problem, channels);
  } else if (type == "half") {
    run<__half>(problem, channels);
  } else {
    run<__nv_bfloat16>(problem, channels);
  }
}
