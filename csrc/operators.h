// The operators vit_adapter::ms_deform_attn and ms_deform_attn_backward.

#pragma once

namespace vit_adapter {

// Gives PyTorch the kernels of each device and the gradients. The schemas are
// defined in Python, because they are also needed where nothing is compiled.
//
// A function and not TORCH_LIBRARY_IMPL, which would run while the extension is
// being loaded: before Python can see that it was built for another PyTorch.
void register_operators();

} // namespace vit_adapter
