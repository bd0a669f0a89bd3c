"""The sizes of a Mask2Former with an adapter, read from the shapes of its weights."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from vit_adapter.checkpoint.original.layouts.layout import find_numbers

__all__ = ["check_sizes", "describe_sizes", "read_sizes"]

_NUM_POINTS = 4  # sampling points of every released model; shapes only show heads times points
_VIT = "model.backbone.vit"
_PIXELS, _QUERIES = "head.pixel_decoder", "head.transformer_decoder"
_EXTRACTOR = "backbone.interactions.0.extractor"


class _Size(NamedTuple):
    """One size.

    Attributes:
        title: for messages.
        key: where a config sets it.
        read: returns it for a state dict of ours.
    """

    title: str
    key: str
    read: Callable[[Mapping[str, Tensor]], int]


def _rows(name: str, less: int = 0) -> Callable[[Mapping[str, Tensor]], int]:
    return lambda weights: weights[name].shape[0] - less


def _width(name: str) -> Callable[[Mapping[str, Tensor]], int]:
    return lambda weights: weights[name].shape[-1]


def _count(prefix: str) -> Callable[[Mapping[str, Tensor]], int]:
    return lambda weights: len(find_numbers(rf"{prefix}\.(\d+)\.", weights))


def _pixel_heads(weights: Mapping[str, Tensor]) -> int:
    levels = weights[f"{_PIXELS}.level_encoding.weight"].shape[0]
    rows = weights[f"{_PIXELS}.encoder.layers.0.self_attn.attention_weights.bias"].shape[0]
    return rows // (levels * _NUM_POINTS)


def _adapter_heads(weights: Mapping[str, Tensor]) -> int:
    return weights[f"{_EXTRACTOR}.attn.attention_weights.bias"].shape[0] // _NUM_POINTS


_SIZES = (
    _Size("width of the ViT", f"{_VIT}", _width("backbone.level_embed")),
    _Size("blocks of the ViT", f"{_VIT}", _count(r"backbone\.vit\.(?:model\.)?blocks")),
    _Size("heads of the adapter", "model.backbone.deform_num_heads", _adapter_heads),
    _Size(
        "width of the adapter's attention",
        "model.backbone.deform_ratio",
        _rows(f"{_EXTRACTOR}.attn.value_proj.weight"),
    ),
    _Size(
        "width of the head", f"model.{_PIXELS}.embed_dim", _width(f"{_QUERIES}.post_norm.weight")
    ),
    _Size("heads of the pixel decoder", f"model.{_PIXELS}.num_heads", _pixel_heads),
    _Size(
        "layers of the pixel decoder",
        f"model.{_PIXELS}.num_layers",
        _count(re.escape(f"{_PIXELS}.encoder.layers")),
    ),
    _Size(
        "hidden width of the pixel decoder",
        f"model.{_PIXELS}.ffn_dim",
        _rows(f"{_PIXELS}.encoder.layers.0.ffn.linear1.bias"),
    ),
    _Size(
        "layers of the transformer decoder",
        f"model.{_QUERIES}.num_layers",
        _count(re.escape(f"{_QUERIES}.layers")),
    ),
    _Size(
        "hidden width of the transformer decoder",
        f"model.{_QUERIES}.ffn_dim",
        _rows(f"{_QUERIES}.layers.0.ffn.linear1.bias"),
    ),
    _Size("queries", f"model.{_QUERIES}.num_queries", _rows(f"{_QUERIES}.query_feat.weight")),
    _Size("classes", f"model.{_QUERIES}.num_classes", _rows(f"{_QUERIES}.cls_embed.bias", 1)),
)


def read_sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Read the sizes of a segmentor from its state dict.

    Args:
        weights: with our names.

    Returns:
        Title -> size, without those that the model does not have.
    """
    sizes = {}
    for size in _SIZES:
        try:
            found = size.read(weights)
        except KeyError:
            continue
        if found:
            sizes[size.title] = found
    return sizes


def describe_sizes(sizes: Mapping[str, int]) -> str:
    """List sizes in one line."""
    return ", ".join(f"{title} {size}" for title, size in sizes.items())


def check_sizes(weights: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
    """Compare the sizes of a checkpoint with those of a config's model.

    Args:
        weights: state dict of the checkpoint, with our names.
        model: state dict of the model.

    Raises:
        ValueError: some differ; the message names both values and the key of the config.
    """
    found, expected = read_sizes(weights), read_sizes(model)
    lines = [
        f"  {size.title}: {found[size.title]} in the checkpoint, {expected[size.title]} in the "
        f"config ({size.key})"
        for size in _SIZES
        if size.title in found.keys() & expected.keys()
        and found[size.title] != expected[size.title]
    ]
    if lines:
        raise ValueError(
            "the checkpoint does not fit the config:\n"
            + "\n".join(lines)
            + "\nUse a config for a model of these sizes, or override the keys in brackets"
        )
