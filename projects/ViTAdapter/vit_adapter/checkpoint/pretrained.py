"""Weights of plain, pre-trained ViTs for the trunk: DeiT, MAE, timm's own names, Google's AugReg.

Shape letters: N tokens of the pre-training grid, D embedding width, M heads, d width per head.
"""

import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.checkpoint.files import CheckpointFileError, load_state_dict_file
from vit_adapter.checkpoint.loading import CheckpointMismatchError, LoadReport, compare_keys

__all__ = ["convert_augreg", "find_trunk", "load_pretrained_vit", "match_trunk_names"]

logger = logging.getLogger(__name__)

_UNUSED_IN_TRUNK = (
    r"^head\b",  # classifier
    r"^head_dist\b",
    r"^pre_logits\b",
    r"^norm\.",  # the final norm: the adapter reads the blocks' outputs instead
    r"^fc_norm\.",
    r"^cls_token$",
    r"^mask_token$",
    r"^decoder_",  # MAE's reconstruction decoder
)
"""What classifiers and reconstruction models have and a trunk for dense prediction has not."""

_NOT_PRETRAINED = (
    r"\.gamma[12]$",  # layer scale starts at one, which is what its absence means
    r"\.residual\.",  # ViTDet's bottlenecks start as the identity
)
"""What a trunk may have and plain pre-training has not."""


def find_trunk(model: nn.Module) -> ViTTrunk:
    """Return the one plain ViT inside a model.

    Raises:
        ValueError: there is none, or more than one.
    """
    trunks = [module for module in model.modules() if isinstance(module, ViTTrunk)]
    if len(trunks) != 1:
        raise ValueError(
            f"weights of a plain ViT need a model with one ViT trunk, this one has {len(trunks)}; "
            "give the weights of the whole model instead (train.init_checkpoint)."
        )
    return trunks[0]


def load_pretrained_vit(vit: ViTTrunk, path: str | os.PathLike[str]) -> LoadReport:
    """Load plain-ViT weights into a trunk, with an account of every name.

    Names that only a classifier or a reconstruction decoder has are passed over, and layer scale
    and ViTDet's residual blocks keep their initial values where the file lacks them; both are
    logged. Everything else has to fit. The position embedding stays at its pre-training grid: the
    trunk resizes it in each forward pass, so it has to be built for that grid.

    Args:
        vit: the trunk, with the parameter names of timm.
        path: file or URL of weights with timm's names, or an ``.npz`` of Google's AugReg.

    Returns:
        The account; the names that were passed over are its ``unused`` and ``missing``.

    Raises:
        CheckpointFileError: the file cannot be read, or holds no plain ViT.
        CheckpointMismatchError: a name or shape does not fit; nothing was loaded.
    """
    name = os.fspath(path)
    state_dict = match_trunk_names(vit, _read_plain_vit(name))
    report = compare_keys(vit, state_dict)
    _check_position_grid(vit, report, name)
    refused = replace(
        report,
        unused=report.without(_UNUSED_IN_TRUNK).unused,
        missing=report.without(_NOT_PRETRAINED).missing,
    )
    if not refused.is_exact:
        raise CheckpointMismatchError(
            f"checkpoint {name!r} does not fit the trunk; nothing was loaded.\n"
            f"{refused.describe()}\nChoose the weights of the same size and patch size, or change "
            "embed_dim, depth, num_heads, patch_size or img_size in the config.",
            refused,
        )
    vit.load_state_dict({key: state_dict[key] for key in report.loaded}, strict=False)
    logger.info(
        "Loaded %d of %d tensors of %s; passed over: %s; kept their initial values: %s",
        len(report.loaded), len(state_dict), name,
        ", ".join(report.unused) or "none", ", ".join(report.missing) or "none",
    )
    return report


def _read_plain_vit(name: str) -> dict[str, Tensor]:
    """Read a file or URL of a plain ViT; returns timm's names."""
    state_dict = load_state_dict_file(name)
    if any(key.startswith("Transformer/encoderblock_") for key in state_dict):
        state_dict = convert_augreg(state_dict)
    if not any(key.startswith("blocks.") for key in state_dict):
        raise CheckpointFileError(
            f"checkpoint {name!r} holds no plain ViT: no parameter is called 'blocks.*'. The first "
            f"names are {', '.join(list(state_dict)[:5])}. For the checkpoint of a whole detector "
            "use train.init_checkpoint."
        )
    return state_dict


def match_trunk_names(vit: ViTTrunk, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's layer scale and add the class row that a position embedding may lack.

    Args:
        vit: the trunk.
        state_dict: names of timm; ``pos_embed`` (1, N, D) or (1, 1 + N, D).

    Returns:
        ``blocks.i.ls1.gamma`` as ``blocks.i.gamma1``; a ``pos_embed`` of exactly N rows, as models
        without an embedded class token have it, gets a row of zeros in front, which no forward
        pass reads.
    """
    renamed = {
        re.sub(r"\.ls([12])\.gamma$", r".gamma\1", key): value for key, value in state_dict.items()
    }
    expected = vit.state_dict().get("pos_embed")
    found = renamed.get("pos_embed")
    if (
        expected is not None
        and found is not None
        and found.dim() == 3
        and _grid_side(found.shape[1]) is not None
        and _grid_side(expected.shape[1] - 1) is not None
    ):
        renamed["pos_embed"] = torch.cat([torch.zeros_like(found[:, :1]), found], dim=1)
    return renamed


def _check_position_grid(vit: ViTTrunk, report: LoadReport, name: str) -> None:
    """Name both grids where the position embeddings differ in length alone."""
    shapes = next((entry[1:] for entry in report.misshapen if entry[0] == "pos_embed"), None)
    if shapes is None or len(shapes[0]) != 3 or shapes[0][2] != shapes[1][2]:
        return
    found, expected = (_grid_side(shape[1] - 1) for shape in shapes)
    if found is None or expected is None:
        return
    patch = vit.patch_size
    raise CheckpointMismatchError(
        f"checkpoint {name!r} has a position embedding for a {found}x{found} grid "
        f"({found * patch} pixels at patch size {patch}), the model for {expected}x{expected} "
        f"({expected * patch} pixels); nothing was loaded. Build the trunk for the grid of the "
        f"checkpoint, img_size={found * patch}: every forward pass resizes it to the image.",
        report,
    )


def _grid_side(rows: int) -> int | None:
    side = math.isqrt(max(rows, 0))
    return side if side > 0 and side * side == rows else None


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
            "the .npz holds a hybrid ResNet-ViT; only plain ViTs such as 'L_16-i21k-300ep-...' fit."
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
                f"the .npz lacks {error} of encoderblock_{index}; download it again."
            ) from error
    return {key: value.contiguous() for key, value in converted.items()}


def _convert_block(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    attention = "MultiHeadDotProductAttention_1"
    parts = [f"{attention}/{part}" for part in ("query", "key", "value")]
    converted = {
        # (D, M, d) -> (M d, D), the three stacked: (3 M d, D)
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
