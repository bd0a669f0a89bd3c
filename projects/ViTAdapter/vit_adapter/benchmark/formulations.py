"""The implementations that ``benchmark_op.py`` compares, and where to get their kernels.

Each is a function with the arguments of :func:`vit_adapter.ops.ms_deform_attn`. Those of other
projects are available if they can be imported:

* ``mmcv``: https://github.com/open-mmlab/mmcv, ``pip install mmcv`` (with its CUDA extension);
* ``deformable_detr``: the extension ``MultiScaleDeformableAttention`` that Deformable DETR,
  Mask2Former and the original ViT-Adapter build in their ``ops`` folders;
* ``deformops``: https://github.com/tue-p8n/deformops, ``pip install deformops``, Python >= 3.12;
  its kernels sum 16-bit gradients in 16 bits or, on request, in float32.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vit_adapter.benchmark.failure import describe_failure
from vit_adapter.ops import ms_deform_attn, ms_deform_attn_reference
from vit_adapter.ops.reference import ms_deform_attn_embedding_bag

Formulation = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]

# Images that the other CUDA kernels process at a time; it must divide the batch size, 1 here.
_IM2COL_STEP = 1


def find_formulations(device: torch.device) -> tuple[dict[str, Formulation], dict[str, str]]:
    """Return the implementations for a device, ours first and the reference second.

    Returns:
        The implementations by name; and for those of other projects that are absent, the reason.
    """
    absent: dict[str, str] = {}
    formulations: dict[str, Formulation] = {
        "ours": ms_deform_attn,
        "grid_sample": ms_deform_attn_reference,
    }
    if device.type != "cuda":  # the others have no kernels for anything else
        return formulations | {"embedding_bag": ms_deform_attn_embedding_bag}, absent
    formulations["ours, deterministic"] = _deterministic
    for name, (module, adapt) in _OTHERS.items():
        try:
            formulations[name] = adapt(importlib.import_module(module))
        except Exception as error:  # not installed, without its CUDA part, or broken here
            absent[name] = describe_failure(error)
    return formulations, absent


def cast_points(
    name: str, locations: Tensor, weights: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cast to what an implementation expects beside values of a dtype, outside the timed call."""
    if name == "mmcv":  # the same dtype for everything
        locations = locations.to(dtype)
    if name == "mmcv" or name.startswith("deformops"):
        weights = weights.to(dtype)
    return locations, weights


def _deterministic(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute ours with the gradient that sums in a fixed order."""
    return _InFixedOrder.apply(value, shapes, locations, weights)


class _InFixedOrder(torch.autograd.Function):
    """Runs the backward of ours under `torch.use_deterministic_algorithms`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, shapes: Any, locations: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes = [side for shape in shapes for side in shape]
        return ms_deform_attn(value, shapes, locations, weights)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        # Filling new memory, which PyTorch does for debugging then, is no part of the operator.
        fills = torch.utils.deterministic.fill_uninitialized_memory
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.use_deterministic_algorithms(True)
        try:
            gradients = torch.ops.vit_adapter.ms_deform_attn_backward(
                grad_output, value, ctx.shapes, locations, weights
            )
        finally:
            torch.use_deterministic_algorithms(False)
            torch.utils.deterministic.fill_uninitialized_memory = fills
        return gradients[0], None, gradients[1], gradients[2]


def _level_tensors(
    shapes: Sequence[tuple[int, int]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return (H, W) and the first token of every level, as the other implementations expect."""
    sizes = torch.tensor(shapes, device=device)
    lengths = sizes.prod(1)
    return sizes, lengths.cumsum(0) - lengths


def _adapt_mmcv(module: Any) -> Formulation:
    function = module.MultiScaleDeformableAttnFunction
    levels = _LevelCache()

    def compute(
        value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
    ) -> Tensor:
        level_tensors = levels(shapes, value.device)
        return function.apply(value, *level_tensors, locations, weights, _IM2COL_STEP)

    return compute


def _adapt_deformable_detr(module: Any) -> Formulation:
    forward, backward = module.ms_deform_attn_forward, module.ms_deform_attn_backward
    levels = _LevelCache()

    class Function(torch.autograd.Function):
        """The two kernels, without the casts of the public wrappers."""

        @staticmethod
        def forward(ctx: Any, value: Tensor, shapes: Any, *points: Tensor) -> Tensor:
            arguments = (value, *levels(shapes, value.device), *points)
            ctx.save_for_backward(*arguments)
            return forward(*arguments, _IM2COL_STEP)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
            gradients = backward(*ctx.saved_tensors, grad_output.contiguous(), _IM2COL_STEP)
            return gradients[0], None, gradients[1], gradients[2]

    return Function.apply


def _adapt_deformops(module: Any, **options: bool) -> Formulation:
    levels = _LevelCache()

    def compute(
        value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
    ) -> Tensor:
        sizes, starts = levels(shapes, value.device)
        return module.msda(value, sizes, starts, locations, weights, **options)

    return compute


class _LevelCache:
    """The tensors of :func:`_level_tensors`, created once, as in a model."""

    def __init__(self) -> None:
        self._made: dict[tuple, tuple[Tensor, Tensor]] = {}

    def __call__(
        self, shapes: Sequence[tuple[int, int]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        key = (tuple(shapes), device)
        if key not in self._made:
            self._made[key] = _level_tensors(shapes, device)
        return self._made[key]


_OTHERS: dict[str, tuple[str, Callable[[Any], Formulation]]] = {
    "mmcv": ("mmcv.ops.multi_scale_deform_attn", _adapt_mmcv),
    "deformable_detr": ("MultiScaleDeformableAttention", _adapt_deformable_detr),
    "deformops": ("deformops.registry", _adapt_deformops),
    "deformops, float32 sums": ("deformops.registry", partial(_adapt_deformops, fp32acc=True)),
}
