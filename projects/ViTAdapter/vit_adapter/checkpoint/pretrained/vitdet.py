"""Checkpoints of SAM's image encoder and of Detectron2's ViTDet for timm's SAM-type ViT.

Shapes: G side of the position grid of the checkpoint, h/w grid of the model, L relative positions
along an axis, d width of a head, D embed dim.
"""

import math
from collections.abc import Mapping

import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed_nhwc, resample_patch_embed
from timm.models.vision_transformer_sam import checkpoint_filter_fn
from torch import Tensor, nn

__all__ = ["convert_sam"]

_VITDET = "backbone.net."


def convert_sam(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename to timm's layout and resize what belongs to another image size.

    Args:
        state_dict: timm's layout, SAM's (``image_encoder.*``) or that of a detector with
            Detectron2's ViTDet (``backbone.net.*``).
        model: timm's module.

    Returns:
        timm's names; everything outside the encoder is left out.
    """
    if any(key.startswith(_VITDET) for key in state_dict):
        encoder = {
            key.removeprefix(_VITDET): value
            for key, value in state_dict.items()
            if key.startswith(_VITDET)
        }
        if "pos_embed" in encoder and model.pos_embed is not None:
            encoder["pos_embed"] = _vitdet_positions(encoder["pos_embed"], model.pos_embed)
    else:
        encoder = checkpoint_filter_fn(dict(state_dict), model)
    expected = model.state_dict()
    return {
        key: _fit(key, value, expected[key]) if key in expected else value
        for key, value in encoder.items()
    }


def _vitdet_positions(positions: Tensor, expected: Tensor) -> Tensor:
    """Resize (1, 1 + G*G, D) with a class row, or (1, G*G, D), to (1, h, w, D).

    The resizing is bicubic without antialiasing, as in every forward pass of Detectron2, so images
    of the size that the model is built for give the same result as in the detector.
    """
    side = math.isqrt(positions.shape[1])
    grid = positions[:, -(side * side) :].unflatten(1, (side, side))
    if grid.shape[1:3] == expected.shape[1:3]:
        return grid
    maps = grid.permute(0, 3, 1, 2)
    size = tuple(expected.shape[1:3])
    maps = F.interpolate(maps, size=size, mode="bicubic", align_corners=False)
    return maps.permute(0, 2, 3, 1)


def _fit(key: str, value: Tensor, expected: Tensor) -> Tensor:
    """Resize positions and the patch kernel to the shape of the model."""
    if value.shape == expected.shape:
        return value
    if key.endswith((".rel_pos_h", ".rel_pos_w")) and value.shape[1:] == expected.shape[1:]:
        # (L, d), linearly, like the forward pass for images of other sizes
        row = F.interpolate(value.T[None], size=expected.shape[0], mode="linear")
        return row[0].T
    if key == "pos_embed" and value.ndim == 4:
        return resample_abs_pos_embed_nhwc(value, list(expected.shape[1:3]))
    if key == "patch_embed.proj.weight" and value.shape[:2] == expected.shape[:2]:
        return resample_patch_embed(value, list(expected.shape[2:]))
    return value
