"""Weights of BEiT and BEiT v2 for the trunk, in the layout of their authors and of timm."""

import math

import torch
from torch import Tensor

from vit_adapter.backbone.beit import BEiT
from vit_adapter.checkpoint.loading import LoadReport, ResizedEntry
from vit_adapter.checkpoint.pretrained.reader import Reader, TrunkWeights
from vit_adapter.checkpoint.pretrained.registry import refuse_other_families, register
from vit_adapter.layers import GridSize
from vit_adapter.layers.relative_position import NUM_CLASS_ROWS, num_offsets, resize_offsets

_PASSED_OVER = (
    r"^(head|norm|fc_norm)\.",  # classifier and final norm
    r"^cls_token$",  # for detectors, whose trunks have none
    r"^mask_token$",
    r"^(lm_head|cls_pt_layers)\.",  # masked pre-training
    r"\.relative_position_index$",  # follows from the grid
)
"""Names in such files that are not weights of the trunk."""

_SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
_TABLE = "blocks.{}.attn.relative_position_bias_table"


def _adapt(vit: BEiT, state_dict: dict[str, Tensor], source: str) -> TrunkWeights:
    """See :attr:`Reader.adapt`."""
    refuse_other_families(state_dict, BEiT, source)
    weights = dict(state_dict)
    names = [_TABLE.format(index) for index in range(vit.depth)]
    if not any(name in weights for name in names) and _SHARED_TABLE in weights:
        # Masked pre-training shares one table between all blocks.
        weights.update(dict.fromkeys(names, weights.pop(_SHARED_TABLE)))
        weights.pop("rel_pos_bias.relative_position_index", None)
    resized = []
    for name, block in zip(names, vit.blocks, strict=True):
        if name not in weights:
            continue
        found = weights[name]
        weights[name] = _fit_table(
            found, block.attn.native_grid, len(block.attn.relative_position_bias_table)
        )
        if weights[name].shape != found.shape:
            resized.append(ResizedEntry(name, tuple(found.shape), tuple(weights[name].shape)))
    return TrunkWeights(weights, tuple(resized))


def _fit_table(table: Tensor, grid: GridSize, rows: int) -> Tensor:
    """Resize a table of a square grid to ``rows``, the number for ``grid`` and any class token.

    The rows of a class token are dropped if the trunk has none. A table that cannot be made to fit
    is returned unchanged.
    """
    if table.ndim != 2 or len(table) == rows:
        return table
    source = _square_grid(len(table) - NUM_CLASS_ROWS)
    has_class_rows = source is not None
    if source is None:
        source = _square_grid(len(table))
    wants_class_rows = rows > num_offsets(grid)
    if source is None or (wants_class_rows and not has_class_rows):
        return table
    if has_class_rows and not wants_class_rows:
        table = table[:-NUM_CLASS_ROWS]
    with torch.no_grad():
        return resize_offsets(table, source, grid)


def _square_grid(offsets: int) -> GridSize | None:
    """The square grid, of width w, that has (2w - 1)^2 = ``offsets``; None if there is none."""
    side = math.isqrt(max(offsets, 0))
    return ((side + 1) // 2,) * 2 if side * side == offsets and side % 2 else None


def _advise(vit: BEiT, report: LoadReport) -> str:
    """See :attr:`Reader.advise`."""
    without_class = all(table[0].endswith("bias_table") for table in report.misshapen)
    if report.misshapen and without_class and vit.num_prefix_tokens:
        return (
            "Tables of a square grid fit any img_size. These have a different number of heads, "
            "belong to a grid that is not square, or come from a BEiT without a class token."
        )
    return (
        "Choose weights of the same size, or change embed_dim, depth, num_heads, patch_size, "
        "qkv_bias, init_values or class_token in the config."
    )


register(
    Reader(
        trunk=BEiT,
        marks={r"relative_position_bias_table$": "BEiT or BEiT v2"},
        adapt=_adapt,
        passed_over=_PASSED_OVER,
        not_pretrained=(),
        advise=_advise,
    )
)
