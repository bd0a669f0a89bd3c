"""Our backbones from the original's classes and constructor arguments.

The original keeps two copies of its backbones that are not the same network. The detection tree
adds the ViT's final tokens to all four outputs, the segmentation tree those after interaction 1 to
4; so a class is named with its tree.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.modeling.backbone import Backbone

from vit_adapter.backbone import PlainViT, ViTAdapter, ViTBaseline

_TREE_OF_PACKAGE = {"mmdet_custom": "detection", "mmseg_custom": "segmentation"}

# Defaults of the original's constructors; None: there is none, or it follows from another argument.
_TRUNK_DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "pretrain_size": 224,
    "patch_size": 16,
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "layer_scale": True,
    "window_attn": False,
    "window_size": 14,
    "residual_indices": (),
    "with_cp": False,
    "pretrained": None,
}
_ADAPTER_DEFAULTS: dict[str, Any] = {
    "interaction_indexes": None,
    "conv_inplane": 64,
    "n_points": 4,
    "deform_num_heads": 6,
    "init_values": 0.0,
    "with_cffn": True,
    "cffn_ratio": 0.25,
    "deform_ratio": 1.0,
    "add_vit_feature": True,
    "use_extra_extractor": True,
}
_BASELINE_DEFAULTS: dict[str, Any] = {"out_indices": None}


def build_backbone(cls: str, kwargs: Mapping[str, Any], *, norm: str = "SyncBN") -> Backbone:
    """Build our backbone from the original's class and constructor arguments.

    Args:
        cls: "detection.ViTAdapter", "segmentation.ViTAdapter", "detection.ViTBaseline" or
            "segmentation.ViTBaseline", or the original's dotted path such as
            "mmdet_custom.models.backbones.vit_adapter.ViTAdapter".
        kwargs: the original's arguments; those left out have the original's defaults.
        norm: norm of the adapter, see :func:`vit_adapter.layers.build_norm`; the original has
            SyncBN. Names of parameters and buffers do not depend on it for the batch norms.

    Raises:
        ValueError: unknown class or argument, or values that this project has no equivalent for.
    """
    tree, name = _split_class(cls)
    extra_defaults = _BASELINE_DEFAULTS if name == "ViTBaseline" else _ADAPTER_DEFAULTS
    known = {**_TRUNK_DEFAULTS, **extra_defaults}
    unknown = sorted(set(kwargs) - set(known))
    if unknown:
        raise ValueError(
            f"unknown arguments of {cls}: {', '.join(unknown)}; "
            f"known are {', '.join(sorted(known))}"
        )
    return _BUILDERS[name](tree, {**known, **kwargs}, norm)


def _split_class(cls: str) -> tuple[str, str]:
    """Tree and class name: ("detection", "ViTAdapter")."""
    package, _, name = cls.rpartition(".")
    root = package.split(".", 1)[0]
    tree = _TREE_OF_PACKAGE.get(root, root)
    if tree not in _TREE_OF_PACKAGE.values() or name not in _BUILDERS:
        known = [f"{t}.{n}" for t in _TREE_OF_PACKAGE.values() for n in _BUILDERS]
        raise ValueError(f"unknown backbone {cls!r}; known are {', '.join(known)}")
    return tree, name


def _build_adapter(tree: str, kwargs: Mapping[str, Any], norm: str) -> ViTAdapter:
    if kwargs["interaction_indexes"] is None:
        raise ValueError(
            "interaction_indexes is required, for example [[0, 2], [3, 5], [6, 8], [9, 11]]"
        )
    if not kwargs["add_vit_feature"]:
        fusion = "none"
    else:
        fusion = "last" if tree == "detection" else "per_interaction"
    return ViTAdapter(
        _build_trunk(kwargs),
        interaction_indexes=kwargs["interaction_indexes"],
        conv_inplane=kwargs["conv_inplane"],
        num_points=kwargs["n_points"],
        deform_num_heads=kwargs["deform_num_heads"],
        deform_ratio=kwargs["deform_ratio"],
        with_cffn=kwargs["with_cffn"],
        cffn_ratio=kwargs["cffn_ratio"],
        use_extra_extractor=kwargs["use_extra_extractor"],
        vit_feature_fusion=fusion,
        init_values=kwargs["init_values"],
        drop_path_rate=kwargs["drop_path_rate"],
        norm=norm,
        # The original's detectors recompute the ViT's blocks only.
        use_checkpoint=kwargs["with_cp"] and tree == "segmentation",
    )


def _build_baseline(_tree: str, kwargs: Mapping[str, Any], _norm: str) -> ViTBaseline:
    depth = kwargs["depth"]
    out_indexes = kwargs["out_indices"]
    if out_indexes is None:
        out_indexes = [depth // 4 * (i + 1) - 1 for i in range(4)]  # 12 blocks: 2, 5, 8, 11
    return ViTBaseline(_build_trunk(kwargs), out_indexes=out_indexes)


def _build_trunk(kwargs: Mapping[str, Any]) -> PlainViT:
    if kwargs["pretrained"] is not None:
        raise ValueError(
            "pretrained must be None: build the backbone, then load the weights into it"
        )
    dropout = {name: kwargs[name] for name in ("drop_rate", "attn_drop_rate") if kwargs[name]}
    if dropout:
        raise ValueError(
            f"dropout inside the ViT is not supported (no released model has it), got {dropout}"
        )
    if kwargs["img_size"] != kwargs["pretrain_size"]:
        raise ValueError(
            f"img_size and pretrain_size both give the position grid and must agree, "
            f"got {kwargs['img_size']} and {kwargs['pretrain_size']}"
        )
    return PlainViT(
        img_size=kwargs["img_size"],
        patch_size=kwargs["patch_size"],
        embed_dim=kwargs["embed_dim"],
        depth=kwargs["depth"],
        num_heads=kwargs["num_heads"],
        mlp_ratio=kwargs["mlp_ratio"],
        qkv_bias=kwargs["qkv_bias"],
        layer_scale=kwargs["layer_scale"],
        drop_path_rate=kwargs["drop_path_rate"],
        window_sizes=_window_sizes(kwargs["window_attn"], kwargs["window_size"], kwargs["depth"]),
        residual_indexes=kwargs["residual_indices"],
        use_checkpoint=kwargs["with_cp"],
    )


def _window_sizes(
    window_attn: bool | Sequence[bool], window_size: int | None | Sequence[int | None], depth: int
) -> list[int]:
    """One window per block, 0 for global, from the original's two arguments, scalars or lists."""
    windowed = [window_attn] * depth if isinstance(window_attn, bool) else list(window_attn)
    scalar = window_size is None or isinstance(window_size, int)
    sizes = [window_size] * depth if scalar else list(window_size)
    if len(windowed) != depth or len(sizes) != depth:
        raise ValueError(
            f"window_attn and window_size must be scalars or have one entry for each of the "
            f"{depth} blocks, got {len(windowed)} and {len(sizes)} entries"
        )
    missing = [index for index, on in enumerate(windowed) if on and not sizes[index]]
    if missing:
        raise ValueError(f"blocks {missing} have window_attn but no window_size")
    return [size if on else 0 for on, size in zip(windowed, sizes, strict=True)]


_BUILDERS: dict[str, Callable[[str, Mapping[str, Any], str], Backbone]] = {
    "ViTAdapter": _build_adapter,
    "ViTBaseline": _build_baseline,
}
