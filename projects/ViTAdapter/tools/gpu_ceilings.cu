// Measures what a GPU's memory and its reductions bear, and prints it as JSON:
//
//     nvcc -O3 -arch=native gpu_ceilings.cu -o gpu_ceilings && ./gpu_ceilings
//
// copy: bytes read and written per second by a copy larger than any cache.
// reductions: bytes added per second to rows of 32 floats, 16 bytes in an
// instruction (four before compute capability 9.0), as the backward pass of the
// operator adds to the gradient of value. The rows are those of a map of 22 MB,
// as for Mask2Former at 1024 pixels, once in order and once at random; the
// faster counts.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

constexpr int kLanes = 8; // of a row: 16 bytes each
constexpr uint32_t kRows = 1u << 17 | 1u << 15 | 1u << 13; // 172,032
constexpr uint32_t kAdditions = 1u << 23; // rows added: 1.07 GB
constexpr int kRuns = 5;
constexpr size_t kCopied = size_t(1) << 30;

void check(cudaError_t error) {
  if (error != cudaSuccess) {
    std::fprintf(stderr, "gpu_ceilings: %s\n", cudaGetErrorString(error));
    std::exit(1);
  }
}

__device__ uint32_t mixed(uint32_t number) {
  number = (number ^ (number >> 16)) * 0x7feb352du;
  number = (number ^ (number >> 15)) * 0x846ca68bu;
  return number ^ (number >> 16);
}

template <bool kRandom>
__global__ void add_rows(float4* target) {
  const uint32_t row =
      blockIdx.x * (blockDim.x / kLanes) + threadIdx.x / kLanes;
  float4* const address = target +
      (kRandom ? mixed(row) : row) % kRows * kLanes + threadIdx.x % kLanes;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  atomicAdd(address, make_float4(1, 1, 1, 1));
#else
  float* const numbers = reinterpret_cast<float*>(address);
  for (int i = 0; i < 4; ++i) {
    atomicAdd(numbers + i, 1.0f);
  }
#endif
}

// The seconds of a run on the device, the least of several.
template <typename Run>
double seconds(Run run) {
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&stop));
  float least = 1e30f;
  for (int i = 0; i <= kRuns; ++i) {
    check(cudaEventRecord(start));
    run();
    check(cudaGetLastError());
    check(cudaEventRecord(stop));
    check(cudaEventSynchronize(stop));
    float milliseconds;
    check(cudaEventElapsedTime(&milliseconds, start, stop));
    least = i == 0 ? least : std::min(least, milliseconds);
  }
  return least / 1000;
}

int main() {
  char *source, *target;
  check(cudaMalloc(&source, kCopied));
  check(cudaMalloc(&target, kCopied));
  check(cudaMemset(source, 0, kCopied));
  check(cudaMemset(target, 0, kCopied));
  float4* const rows = reinterpret_cast<float4*>(target);
  constexpr int threads = 256, blocks = kAdditions / (threads / kLanes);
  const double copy = seconds([&] {
    check(cudaMemcpyAsync(target, source, kCopied, cudaMemcpyDeviceToDevice));
  });
  const double ordered =
      seconds([&] { add_rows<false><<<blocks, threads>>>(rows); });
  const double random =
      seconds([&] { add_rows<true><<<blocks, threads>>>(rows); });
  const double added = double(kAdditions) * kLanes * sizeof(float4);
  std::printf(
      "{\"copy\": %.4g, \"reductions\": %.4g, \"reductions_in_order\": %.4g, "
      "\"reductions_at_random\": %.4g}\n",
      2 * kCopied / copy,
      added / std::min(ordered, random),
      added / ordered,
      added / random);
}
