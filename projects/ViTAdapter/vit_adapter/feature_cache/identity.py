"""What the features of a view depend on, apart from the image."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vit_adapter.backbone import ViTAdapter

__all__ = ["describe_trunk", "hash_weights"]


def describe_trunk(
    backbone: ViTAdapter, *, dtype: torch.dtype, options: Mapping[str, Any], statistics: list[Any]
) -> dict[str, Any]:
    """Describe a frozen ViT by JSON values: equal descriptions give equal features.

    Args:
        backbone: an adapter in mode "frozen".
        dtype: the one that the ViT computes in.
        options: how the ViT is built, as JSON values, flat.
        statistics: the mean and the standard deviation of the normalisation.
    """
    return {
        "weights": hash_weights(backbone.vit),
        "class": type(backbone.vit).__name__,
        **{f"option {name}": value for name, value in options.items()},
        "blocks": [last for _, last in backbone.interaction_indexes],
        "final norm": backbone.norm_taps,
        "dtype": str(dtype).removeprefix("torch."),
        "pixel statistics": statistics,
    }


def hash_weights(module: nn.Module) -> str:
    """Return the SHA-256 of the names, shapes, types and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
