// Runs the device kernels on arrays in files.
//
//   emulation <folder> <float|double|half|bfloat16> <channels per thread>
//             B S M D Q L P  H_0 W_0 H_1 W_1 ...
//
// reads value, grad_output, locations, weights from <folder>, and writes
// output, grad_value (by scattering), grad_value_gathered, grad_locations,
// grad_weights.

#include <fstream>
#include <string>

#include "launches.h"

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

  emulation::run_all<kChannels, Storage>(
      problem,
      {value.data(),
       grad_output.data(),
       locations.data(),
       weights.data(),
       output.data(),
       gathered.data(),
       grad_value.data(),
       grad_locations.data(),
       grad_weights.data()});
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
  const auto number = [&](int i) { return std::atoll(argv[i]); };
  std::vector<int64_t> shapes;
  for (int i = 11; i < argc; ++i) {
    shapes.push_back(number(i));
  }
  const Problem problem = emulation::make_problem(
      number(4),
      number(6),
      number(7),
      number(8),
      number(10),
      shapes);
  if (problem.tokens != number(5) || problem.num_levels != number(9)) {
    std::fprintf(stderr, "S or L does not fit the shapes\n");
    return 1;
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
