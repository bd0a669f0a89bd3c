// The kernels for AVX2; setup.py compiles this file with its flags.

#define VIT_ADAPTER_ISA avx2
#include "kernel_table.h"

VIT_ADAPTER_DEFINE_KERNELS(kAvx2Kernels, "AVX2")
