// Defines the table of kernels of one instruction set. The including file
// names the set in VIT_ADAPTER_ISA and is compiled with the flags for it.

#pragma once

#include "backward.h"
#include "forward.h"

#define VIT_ADAPTER_DEFINE_KERNELS(table, name)              \
  namespace vit_adapter {                                    \
  namespace cpu {                                            \
  const Kernels table = {                                    \
      name,                                                  \
      {VIT_ADAPTER_ISA::forward<float>,                      \
       VIT_ADAPTER_ISA::forward<double>,                     \
       VIT_ADAPTER_ISA::forward<VIT_ADAPTER_ISA::bfloat16>,  \
       VIT_ADAPTER_ISA::forward<VIT_ADAPTER_ISA::float16>},  \
      {VIT_ADAPTER_ISA::backward<float>,                     \
       VIT_ADAPTER_ISA::backward<double>,                    \
       VIT_ADAPTER_ISA::backward<VIT_ADAPTER_ISA::bfloat16>, \
       VIT_ADAPTER_ISA::backward<VIT_ADAPTER_ISA::float16>}, \
  };                                                         \
  }                                                          \
  }
