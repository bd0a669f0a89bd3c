"""The switch of the fast paths in `vit_adapter.layers.cpu`, and why one of them is off.

A fast path computes the same as a public function of PyTorch, in less time on the CPU. If it is
off, the public function is used. The decision is made here, not beside the paths, because
`extension_info` reports it.
"""

import functools
import operator
import os

import torch

from vit_adapter.ops.exporting import is_exporting
from vit_adapter.ops.processor import channels_last_trains_slowly, onednn_is_faster

__all__ = ["PRIVATE_NAMES", "SWITCH", "describe_fast_paths", "is_on"]

SWITCH = "VIT_ADAPTER_CPU_FAST_PATHS"
"""The environment variable that turns all of them off if its value is "0" or empty."""

# These tell a path that PyTorch is recording or transforming operations.
_OBSERVERS = (
    "torch._C._are_functorch_transforms_active",
    "torch.autograd.forward_ad._current_level",
    "torch.utils._python_dispatch._get_current_dispatch_mode",
)

PRIVATE_NAMES = {
    "attention": (
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu",
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward",
        *_OBSERVERS,
    ),
    "convolution": _OBSERVERS,
    "linear": ("torch.ops.mkldnn._linear_pointwise", *_OBSERVERS),
    "patch_upsampling": (),
    "softmax": (),
}
"""Each fast path, and the private names of PyTorch that it needs; some versions lack them."""


@torch.compiler.assume_constant_result
def is_on(name: str) -> bool:
    """Whether a fast path is on; a constant to torch.compile, which cannot trace this."""
    return not _why_off(name)


def describe_fast_paths() -> dict[str, str]:
    """Each fast path -> ``"on"``, or ``"off: "`` and the reason."""
    reasons = {name: _why_off(name) for name in PRIVATE_NAMES}
    return {name: f"off: {reason}" if reason else "on" for name, reason in reasons.items()}


def _why_off(name: str) -> str:
    """Why a fast path is off; empty if it is on."""
    if is_exporting():
        return "operations are being exported"
    value = os.environ.get(SWITCH, "1")
    return f"{SWITCH}={value}" if value in ("", "0") else _find_obstacle(name)


@functools.cache
def _find_obstacle(name: str) -> str:
    """What a fast path misses in this PyTorch or processor; empty if nothing."""
    missing = [private for private in PRIVATE_NAMES[name] if not _exists(private)]
    if missing:
        return f"torch {torch.__version__} has no {', '.join(missing)}"
    if name == "linear" and not onednn_is_faster():
        return "oneDNN is faster than MKL only on AMD processors with AVX-512"
    if name == "convolution" and not channels_last_trains_slowly():
        return "oneDNN trains slowly on channels-last maps only with AVX2"
    return ""


def _exists(name: str) -> bool:
    try:
        operator.attrgetter(name.removeprefix("torch."))(torch)
    except AttributeError:
        return False
    return True
