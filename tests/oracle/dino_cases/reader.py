"""The golden cases of DINOv3's and DINOv2's segmentors.

They lie in the folder named by ``VIT_ADAPTER_GOLDEN_DINO``, by default
``tests/oracle/golden_dino``. Configurations come from its ``config.json``, sizes from the arrays.
"""

from typing import Any

import torch
from case_files import CaseFiles
from torch import Tensor, nn

__all__ = ["FILES", "check_map", "reads", "record_inputs", "record_outputs"]

FILES = CaseFiles("VIT_ADAPTER_GOLDEN_DINO", "golden_dino", inputs=("*image", "*_image[0-9]"))
reads = FILES.reads


def check_map(labels: Tensor, expected: Tensor, scores: Tensor, tolerance: float = 1e-9) -> None:
    """Compare classes with the expected ones, except where two scores are as good as equal.

    Args:
        labels: (..., H, W).
        expected: the same.
        scores: (..., K, H, W), the expected scores of the classes.
        tolerance: difference of the two best scores up to which either class is right.
    """
    best = scores.topk(2, dim=-3).values
    clear = best.select(-3, 0) - best.select(-3, 1) > tolerance
    assert torch.equal(labels.to(expected.dtype)[clear], expected[clear])
    assert clear.double().mean() > 0.99


def record_inputs(module: nn.Module) -> list[tuple[Any, ...]]:
    """The list to which each call of a module appends its positional arguments."""
    calls: list[tuple[Any, ...]] = []
    module.register_forward_pre_hook(lambda _module, arguments: calls.append(arguments))
    return calls


def record_outputs(module: nn.Module) -> list[Any]:
    """The list to which each call of a module appends its result."""
    results: list[Any] = []
    module.register_forward_hook(lambda _module, _arguments, result: results.append(result))
    return results
