"""Names and shapes of the segmentors of DINOv2's and DINOv3's authors.

The lists in ``keys_dino`` were written by building the authors' models.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "keys_dino"
DINOV2 = "dinov2_vitg14_ade20k_m2f"
HEAD_FILE = "dinov3_vit7b16_ade20k_m2f_head_file"
VIT_FILE = "dinov3_vit7b16_backbone_file"
WHOLE_L = "dinov3_vitl16_m2f_whole_model"

VIT = "segmentation_model.0.backbone."
_SHRINK = {DINOV2: 64, HEAD_FILE: 512, VIT_FILE: 512, WHOLE_L: 64}


def on_meta(name: str) -> dict[str, Tensor]:
    """The tensors of a list, without numbers."""
    keys = json.loads((FOLDER / f"{name}.json").read_text())["keys"].items()
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, (shape, dtype) in keys
    }


def small(name: str) -> dict[str, Tensor]:
    """Random tensors with the names of a list, all of whose widths are much smaller."""
    torch.manual_seed(0)
    result = {}
    for key, value in on_meta(name).items():
        shape = [max(1, size // _SHRINK[name]) if size >= 32 else size for size in value.shape]
        result[key] = (torch.randn(shape) * 9).to(value.dtype)
        if key.endswith("bias_mask"):
            result[key] = torch.ones(shape)
            result[key].view(3, -1)[1] = 0
            result[key.removesuffix("_mask")].view(3, -1)[1] = 0
    return result


def join(head: dict[str, Tensor], vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv3's whole model from its two files."""
    return head | {f"{VIT}{key}": value for key, value in vit.items()}
