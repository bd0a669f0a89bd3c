// The kernels for any processor of the architecture.

#define VIT_ADAPTER_ISA baseline
#include "kernel_table.h"

VIT_ADAPTER_DEFINE_KERNELS(kBaselineKernels, "baseline")
