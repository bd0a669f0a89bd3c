"""Google's own archives of AugReg ViTs, in the layout of JAX.

Shapes: D embed dim, M heads, d width of a head.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vit_adapter.checkpoint.files import CheckpointFileError

__all__ = ["convert_augreg", "is_augreg"]


def is_augreg(arrays: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of https://github.com/google-research/vision_transformer."""
    return any(key.startswith("Transformer/encoderblock_") for key in arrays)


def convert_augreg(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and transpose the arrays of Google's vision_transformer to timm's layout.

    JAX stores a linear layer as (in, out), attention per head as (D, M, d) and (M, d, D), and a
    convolution as (height, width, in, out); PyTorch wants (out, in) and (out, in, height, width).

    Args:
        arrays: the content of an ``.npz`` of https://github.com/google-research/vision_transformer.

    Returns:
        timm's names; arrays of the classifier keep their own names under ``head.`` or
        ``pre_logits.``.

    Raises:
        CheckpointFileError: the arrays of a block are incomplete, or the file holds a hybrid
            ResNet-ViT.
    """
    if any(key.startswith(("conv_root/", "block1/")) for key in arrays):
        raise CheckpointFileError(
            "the .npz holds a hybrid ResNet-ViT; use a plain ViT such as 'L_16-i21k-300ep-...'."
        )
    converted = {}
    blocks: dict[str, dict[str, Tensor]] = {}
    for key, value in arrays.items():
        block = re.fullmatch(r"Transformer/encoderblock_(\d+)/(.+)", key)
        if block:
            blocks.setdefault(block[1], {})[block[2]] = value
        elif key == "cls":
            converted["cls_token"] = value
        elif key == "Transformer/posembed_input/pos_embedding":
            converted["pos_embed"] = value
        elif key.startswith("Transformer/encoder_norm/"):
            converted[f"norm.{'weight' if key.endswith('scale') else 'bias'}"] = value
        elif key == "embedding/kernel":
            converted["patch_embed.proj.weight"] = value.permute(3, 2, 0, 1)
        elif key == "embedding/bias":
            converted["patch_embed.proj.bias"] = value
        else:
            converted[key.replace("/", ".")] = value
    for index, block_arrays in blocks.items():
        try:
            for key, value in _convert_block(block_arrays).items():
                converted[f"blocks.{index}.{key}"] = value
        except KeyError as error:
            raise CheckpointFileError(
                f"the .npz has no {error} in encoderblock_{index}; download it again."
            ) from error
    return {key: value.contiguous() for key, value in converted.items()}


def _convert_block(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    attention = "MultiHeadDotProductAttention_1"
    parts = [f"{attention}/{part}" for part in ("query", "key", "value")]
    converted = {
        # (D, M, d) -> (M d, D) each, stacked: (3 M d, D)
        "attn.qkv.weight": torch.cat([arrays[f"{p}/kernel"].flatten(1).T for p in parts]),
        "attn.qkv.bias": torch.cat([arrays[f"{p}/bias"].flatten() for p in parts]),
        # (M, d, D) -> (D, M d)
        "attn.proj.weight": arrays[f"{attention}/out/kernel"].flatten(0, 1).T,
        "attn.proj.bias": arrays[f"{attention}/out/bias"],
    }
    for index, source in (("1", "LayerNorm_0"), ("2", "LayerNorm_2")):
        converted[f"norm{index}.weight"] = arrays[f"{source}/scale"]
        converted[f"norm{index}.bias"] = arrays[f"{source}/bias"]
    for index in ("0", "1"):
        source = f"MlpBlock_3/Dense_{index}"
        converted[f"mlp.fc{int(index) + 1}.weight"] = arrays[f"{source}/kernel"].T
        converted[f"mlp.fc{int(index) + 1}.bias"] = arrays[f"{source}/bias"]
    return converted
