// Runs the device kernels on arrays in files.
//
//   emulation <folder> <float|double|half|bfloat16> <misaligned: 0|1>
//             <elements of an image from which on offsets have 64 bits>
//             B S M D Q L P  H_0 W_0 H_1 W_1 ...
//
// reads value, grad_output, locations, weights from <folder>, and writes
// output, grad_value (by scattering), grad_value_gathered, grad_locations,
// grad_weights. Arrays of channels start one element after a 16-byte boundary
// if misaligned. Prints the kernels' channels per load, lanes and offset bits.

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

// An array at, or one element after, a 16-byte boundary.
template <typename T>
class Aligned {
 public:
  Aligned(std::vector<T> array, bool misaligned)
      : array_(std::move(array)), offset_(misaligned) {
    array_.insert(array_.begin(), offset_, T());
  }
  T* data() {
    return array_.data() + offset_;
  }
  std::vector<T> array() const {
    return {array_.begin() + offset_, array_.end()};
  }

 private:
  std::vector<T> array_;
  int offset_;
};

template <typename Storage>
void run(const Problem& problem, bool misaligned, int64_t offset_limit) {
  using T = typename ArithmeticOf<Storage>::type;
  using Heads = Aligned<Storage>;
  const size_t values = problem.batch * problem.tokens * problem.stride;
  const size_t outputs = problem.batch * problem.queries * problem.stride;
  const size_t points = size_t(problem.rows) * problem.row_points;
  Heads value(read<Storage>("value", values), misaligned);
  Heads grad_output(read<Storage>("grad_output", outputs), misaligned);
  Heads output(std::vector<Storage>(outputs), misaligned);
  const auto locations = read<T>("locations", 2 * points);
  const auto weights = read<T>("weights", points);
  std::vector<Storage> gathered(values);
  std::vector<T> grad_value(values), grad_locations(2 * points);
  std::vector<T> grad_weights(points);
  const emulation::Arrays<Storage> arrays{
      value.data(),
      grad_output.data(),
      locations.data(),
      weights.data(),
      output.data(),
      gathered.data(),
      grad_value.data(),
      grad_locations.data(),
      grad_weights.data()};
  choose_variant<Storage>(
      problem,
      {value.data(), grad_output.data(), output.data()},
      [&](auto variant) {
        using V = decltype(variant);
        std::printf(
            "%d %d %zu\n",
            V::kChannels,
            V::kLanes,
            8 * sizeof(typename V::Offset));
        emulation::run_all<V>(problem, arrays);
      },
      offset_limit);
  write("output", output.array());
  write("grad_value", grad_value);
  write("grad_value_gathered", gathered);
  write("grad_locations", grad_locations);
  write("grad_weights", grad_weights);
}

} // namespace

int main(int argc, char** argv) {
  folder = argv[1];
  const std::string type = argv[2];
  const bool misaligned = std::atoi(argv[3]);
  const auto number = [&](int i) { return std::atoll(argv[i]); };
  const int64_t offset_limit = number(4);
  std::vector<int64_t> shapes;
  for (int i = 12; i < argc; ++i) {
    shapes.push_back(number(i));
  }
  const Problem problem = emulation::make_problem(
      number(5),
      number(7),
      number(8),
      number(9),
      number(11),
      shapes);
  if (problem.tokens != number(6) || problem.num_levels != number(10)) {
    std::fprintf(stderr, "S or L does not fit the shapes\n");
    return 1;
  }
  if (type == "float") {
    run<float>(problem, misaligned, offset_limit);
  } else if (type == "double") {
    run<double>(problem, misaligned, offset_limit);
  } else if (type == "half") {
    run<__half>(problem, misaligned, offset_limit);
  } else {
    run<__nv_bfloat16>(problem, misaligned, offset_limit);
  }
}
