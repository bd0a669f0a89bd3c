// The kernels for AVX-512; setup.py compiles this file with its flags.

#define VIT_ADAPTER_ISA avx512
#include "kernel_table.h"

VIT_ADAPTER_DEFINE_KERNELS(kAvx512Kernels, "AVX-512")
