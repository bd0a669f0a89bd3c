"""Everything in the package that bypasses PyTorch's own functions on the CPU.

Fast paths only save time. ``VIT_ADAPTER_CPU_FAST_PATHS=0`` in the environment turns them all off,
and `vit_adapter.ops.extension_info` says which are on. `batch_norm` is not a fast path: it avoids
wrong gradients and is always on.
"""
