// The kernels under test as functions of a case.

#pragma once

#include <string>

#include "case.h"
#include "cpu/kernels.h"

enum class Type { kFloat32, kFloat64, kBFloat16, kFloat16 }; // of the values

constexpr const char* kTypeNames[] = {
    "float32",
    "float64",
    "bfloat16",
    "float16"};

// The resolution of a type.
inline double resolution(Type type) {
  constexpr double kResolutions[] = {0x1p-23, 0x1p-52, 0x1p-7, 0x1p-10};
  return kResolutions[int(type)];
}
inline Type arithmetic(Type type) {
  return type == Type::kFloat64 ? type : Type::kFloat32;
}

// Rounds every number to the type it has in memory.
void round_to(Type type, Case& c);

// `cuts` in [0, 1] say where the work of each kernel is divided. `misaligned`
// arrays start one element after an aligned address.
Results run_on_cpu(
    const Case& c,
    Type type,
    const vit_adapter::cpu::Kernels& kernels,
    const Numbers& cuts,
    bool misaligned);

// From `offset_limit` elements an image, offsets have 64 bits. The gathered
// gradient of value is returned beside the scattered one.
Results run_on_device(
    const Case& c,
    Type type,
    bool misaligned,
    int64_t offset_limit,
    Numbers& gathered);

// Runs the kernels at offsets past 2^32. Returns what is wrong, or "".
std::string check_large_offsets(const vit_adapter::cpu::Kernels& kernels);
