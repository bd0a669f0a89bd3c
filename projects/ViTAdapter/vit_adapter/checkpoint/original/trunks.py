"""Builds our ViTs from the original's constructor arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_adapter.backbone.beit import BEiT
from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.backbone.uni_perceiver import UniPerceiver

__all__ = [
    "BEIT_DEFAULTS",
    "UNI_PERCEIVER_DEFAULTS",
    "VIT_DEFAULTS",
    "WINDOW_DEFAULTS",
    "build_beit",
    "build_plain_vit",
    "build_uni_perceiver",
]

Arguments = Mapping[str, Any]

_COMMON_DEFAULTS: dict[str, Any] = {
    "patch_size": 16,
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "drop_path_rate": 0.0,
    "with_cp": False,
    "pretrained": None,
}
WINDOW_DEFAULTS: dict[str, Any] = {"window_attn": False, "window_size": 14}

VIT_DEFAULTS: dict[str, Any] = {
    **_COMMON_DEFAULTS,
    **WINDOW_DEFAULTS,
    "img_size": 224,
    "pretrain_size": 224,
    "qkv_bias": True,
    "drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "layer_scale": True,
    "residual_indices": (),
}
_BEIT_POSITIONS = {
    "use_abs_pos_emb": False,
    "use_rel_pos_bias": True,
    "use_shared_rel_pos_bias": False,
}
BEIT_DEFAULTS: dict[str, Any] = {
    **_COMMON_DEFAULTS,
    "img_size": 512,
    "qkv_bias": False,
    "drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "init_values": 0.0,
    **_BEIT_POSITIONS,
}
UNI_PERCEIVER_DEFAULTS: dict[str, Any] = {
    **_COMMON_DEFAULTS,
    **WINDOW_DEFAULTS,
    "img_size": 224,
    "pretrain_size": 224,
}

_SAME_NAMES = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "drop_path_rate")


def build_plain_vit(kwargs: Arguments) -> PlainViT:
    """Build the ViT of ViTAdapter and ViTBaseline.

    Args:
        kwargs: all of ``VIT_DEFAULTS``.

    Raises:
        ValueError: a value has no equivalent here.
    """
    _refuse_pretrained(kwargs)
    _refuse_dropout(kwargs)
    _check_position_grid(kwargs)
    return PlainViT(
        img_size=kwargs["img_size"],
        qkv_bias=kwargs["qkv_bias"],
        layer_scale=kwargs["layer_scale"],
        window_sizes=_window_sizes(kwargs),
        residual_indexes=kwargs["residual_indices"],
        use_checkpoint=kwargs["with_cp"],
        **_shared(kwargs),
    )


def build_beit(kwargs: Arguments, *, class_token: bool) -> BEiT:
    """Build the BEiT of BEiTAdapter and BEiTBaseline.

    Args:
        kwargs: all of ``BEIT_DEFAULTS``; in the detection tree also those of ``WINDOW_DEFAULTS``.
        class_token: True for the segmentation tree, False for the detection tree.

    Raises:
        ValueError: a value has no equivalent here.
    """
    _refuse_pretrained(kwargs)
    _refuse_dropout(kwargs)
    given = {name: kwargs[name] for name in _BEIT_POSITIONS}
    if given != _BEIT_POSITIONS:
        raise ValueError(
            "only BEiT with separate relative position biases in each block is supported, as in "
            f"all released models ({_BEIT_POSITIONS}); got {given}"
        )
    window_sizes = _window_sizes(kwargs) if "window_attn" in kwargs else []
    return BEiT(
        img_size=_table_size(kwargs, window_sizes),
        qkv_bias=kwargs["qkv_bias"],
        init_values=kwargs["init_values"],
        class_token=class_token,
        window_sizes=window_sizes,
        use_checkpoint=kwargs["with_cp"],
        **_shared(kwargs),
    )


def build_uni_perceiver(kwargs: Arguments) -> UniPerceiver:
    """Build the encoder of UniPerceiverAdapter.

    Args:
        kwargs: all of ``UNI_PERCEIVER_DEFAULTS``.

    Raises:
        ValueError: a value has no equivalent here.
    """
    _refuse_pretrained(kwargs)
    _check_position_grid(kwargs)
    return UniPerceiver(
        img_size=kwargs["img_size"],
        window_sizes=_window_sizes(kwargs),
        use_checkpoint=kwargs["with_cp"],
        **_shared(kwargs),
    )


def _shared(kwargs: Arguments) -> dict[str, Any]:
    """The arguments that have the same name and meaning everywhere."""
    return {name: kwargs[name] for name in _SAME_NAMES}


def _refuse_pretrained(kwargs: Arguments) -> None:
    if kwargs["pretrained"] is not None:
        raise ValueError(
            "pretrained must be None: build the backbone, then load the weights into it"
        )


def _refuse_dropout(kwargs: Arguments) -> None:
    dropout = {name: kwargs[name] for name in ("drop_rate", "attn_drop_rate") if kwargs[name]}
    if dropout:
        raise ValueError(
            f"dropout inside the ViT is not supported (no released model has it), got {dropout}"
        )


def _check_position_grid(kwargs: Arguments) -> None:
    if kwargs["img_size"] != kwargs["pretrain_size"]:
        raise ValueError(
            f"img_size and pretrain_size both define the position grid and must agree, "
            f"got {kwargs['img_size']} and {kwargs['pretrain_size']}"
        )


def _table_size(kwargs: Arguments, window_sizes: Sequence[int]) -> int | Sequence[int]:
    """Image size in pixels that the bias tables of global blocks are made for.

    In the detection tree ``window_size`` also sets the table of a global block.
    """
    if all(window_sizes):
        return kwargs["img_size"]
    given = _per_block("window_size", kwargs)
    sides = {side for side, window in zip(given, window_sizes, strict=True) if not window}
    if len(sides) > 1 or None in sides:
        raise ValueError(
            f"all blocks without windows must have the same window_size for their position "
            f"biases, got {given}"
        )
    return sides.pop() * kwargs["patch_size"]


def _window_sizes(kwargs: Arguments) -> list[int]:
    """One window size per block, 0 for global, from the original's two scalars or lists."""
    windowed = _per_block("window_attn", kwargs)
    sizes = _per_block("window_size", kwargs)
    missing = [index for index, on in enumerate(windowed) if on and not sizes[index]]
    if missing:
        raise ValueError(f"blocks {missing} have window_attn but no window_size")
    return [size if on else 0 for on, size in zip(windowed, sizes, strict=True)]


def _per_block(name: str, kwargs: Arguments) -> list[Any]:
    value, depth = kwargs[name], kwargs["depth"]
    values = list(value) if isinstance(value, Sequence) else [value] * depth
    if len(values) != depth:
        raise ValueError(
            f"{name} must be a scalar or have one entry for each of the {depth} blocks, "
            f"got {len(values)} entries"
        )
    return values
