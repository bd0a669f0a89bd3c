"""Builds our backbones from the original's classes and constructor arguments.

The original keeps two copies of its backbones, which are different networks. The detection tree
adds the ViT's final tokens to all four outputs; the segmentation tree adds the tokens after each of
the interactions 1 to 4. A class is therefore named together with its tree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from detectron2.modeling.backbone import Backbone

from vit_adapter.backbone import ViTAdapter, ViTBaseline
from vit_adapter.backbone.beit_baseline import BEiTBaseline
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.checkpoint.original.trunks import (
    BEIT_DEFAULTS,
    UNI_PERCEIVER_DEFAULTS,
    VIT_DEFAULTS,
    WINDOW_DEFAULTS,
    Arguments,
    build_beit,
    build_plain_vit,
    build_uni_perceiver,
)

_Fusion = Literal["last", "per_interaction"]

_TREE_OF_PACKAGE = {"mmdet_custom": "detection", "mmseg_custom": "segmentation"}

# Defaults of the original's constructors. None: no default, or it follows from another argument.
_ADAPTER_DEFAULTS: dict[str, Any] = {
    "pretrain_size": 224,
    "interaction_indexes": None,
    "conv_inplane": 64,
    "n_points": 4,
    "deform_num_heads": 6,
    "init_values": 0.0,
    "with_cffn": True,
    "cffn_ratio": 0.25,
    "deform_ratio": 1.0,
    "add_vit_feature": True,
}
_BEIT_BASELINE_DEFAULTS: dict[str, Any] = {
    **BEIT_DEFAULTS,
    "img_size": 224,
    "init_values": None,
    "use_abs_pos_emb": True,
    "use_rel_pos_bias": False,
    "out_indices": (3, 5, 7, 11),
}


@dataclass(frozen=True)
class _OriginalClass:
    """A class of the original: the defaults of its arguments, and how to build ours from them."""

    defaults: Arguments
    build: Callable[[Arguments, str], Backbone]


def build_backbone(cls: str, kwargs: Mapping[str, Any], *, norm: str = "SyncBN") -> Backbone:
    """Build our backbone from the original's class and constructor arguments.

    Args:
        cls: the tree, "detection" or "segmentation", and the class, as in "detection.ViTAdapter",
            or the original's dotted path such as
            "mmdet_custom.models.backbones.vit_adapter.ViTAdapter". Classes are ViTAdapter,
            ViTBaseline, BEiTAdapter, BEiTBaseline (segmentation) and UniPerceiverAdapter.
        kwargs: the original's arguments; the rest have the original's defaults.
        norm: norm of the adapter, see :func:`vit_adapter.layers.build_norm`. The original uses
            SyncBN. All kinds of batch norm have the same parameter and buffer names.

    Raises:
        ValueError: the class or an argument is unknown, or a value has no equivalent here.
    """
    original = _CLASSES[_find_class(cls)]
    unknown = sorted(set(kwargs) - set(original.defaults))
    if unknown:
        raise ValueError(
            f"unknown arguments of {cls}: {', '.join(unknown)}; "
            f"known arguments are {', '.join(sorted(original.defaults))}"
        )
    return original.build({**original.defaults, **kwargs}, norm)


def _find_class(cls: str) -> str:
    """Tree and class: "detection.ViTAdapter"."""
    package, _, name = cls.rpartition(".")
    root = package.split(".", 1)[0]
    key = f"{_TREE_OF_PACKAGE.get(root, root)}.{name}"
    if key not in _CLASSES:
        raise ValueError(f"unknown backbone {cls!r}; known backbones are {', '.join(_CLASSES)}")
    return key


def _build_adapter(
    vit: ViTTrunk,
    kwargs: Arguments,
    norm: str,
    *,
    fusion: _Fusion,
    recompute: bool,
    use_extra_extractor: bool = True,
) -> ViTAdapter:
    """Put the adapter around a ViT.

    Args:
        vit: the ViT.
        kwargs: all of ``_ADAPTER_DEFAULTS``, and ``drop_path_rate``.
        norm: see :func:`build_backbone`.
        fusion: which ViT maps are added to the outputs, unless ``add_vit_feature`` is off.
        recompute: whether ``with_cp`` also covers injectors and extractors.
        use_extra_extractor: an argument of ViTAdapter; the other adapters always have them.
    """
    if kwargs["interaction_indexes"] is None:
        raise ValueError(
            "interaction_indexes is required, for example [[0, 2], [3, 5], [6, 8], [9, 11]]"
        )
    return ViTAdapter(
        vit,
        interaction_indexes=kwargs["interaction_indexes"],
        conv_inplane=kwargs["conv_inplane"],
        num_points=kwargs["n_points"],
        deform_num_heads=kwargs["deform_num_heads"],
        deform_ratio=kwargs["deform_ratio"],
        with_cffn=kwargs["with_cffn"],
        cffn_ratio=kwargs["cffn_ratio"],
        use_extra_extractor=use_extra_extractor,
        vit_feature_fusion=fusion if kwargs["add_vit_feature"] else "none",
        init_values=kwargs["init_values"],
        drop_path_rate=kwargs["drop_path_rate"],
        norm=norm,
        use_checkpoint=kwargs["with_cp"] and recompute,
    )


def _vit_adapter(fusion: _Fusion, *, recompute: bool) -> _OriginalClass:
    def build(kwargs: Arguments, norm: str) -> ViTAdapter:
        return _build_adapter(
            build_plain_vit(kwargs),
            kwargs,
            norm,
            fusion=fusion,
            recompute=recompute,
            use_extra_extractor=kwargs["use_extra_extractor"],
        )

    defaults = {**VIT_DEFAULTS, **_ADAPTER_DEFAULTS, "use_extra_extractor": True}
    return _OriginalClass(defaults, build)


def _build_detection_beit(kwargs: Arguments, norm: str) -> ViTAdapter:
    versions: dict[str, _Fusion] = {"new": "last", "old": "per_interaction"}
    if kwargs["version"] not in versions:
        raise ValueError(f"version must be one of {list(versions)}, got {kwargs['version']!r}")
    fusion = versions[kwargs["version"]]
    vit = build_beit(kwargs, class_token=False)
    return _build_adapter(vit, kwargs, norm, fusion=fusion, recompute=True)


def _build_segmentation_beit(kwargs: Arguments, norm: str) -> ViTAdapter:
    vit = build_beit(kwargs, class_token=True)
    return _build_adapter(vit, kwargs, norm, fusion="per_interaction", recompute=True)


def _uni_perceiver_adapter(fusion: _Fusion, *, recompute: bool) -> _OriginalClass:
    def build(kwargs: Arguments, norm: str) -> ViTAdapter:
        vit = build_uni_perceiver(kwargs)
        return _build_adapter(vit, kwargs, norm, fusion=fusion, recompute=recompute)

    return _OriginalClass({**UNI_PERCEIVER_DEFAULTS, **_ADAPTER_DEFAULTS}, build)


def _build_vit_baseline(kwargs: Arguments, _norm: str) -> ViTBaseline:
    depth = kwargs["depth"]
    out_indexes = kwargs["out_indices"]
    if out_indexes is None:
        out_indexes = [depth // 4 * (i + 1) - 1 for i in range(4)]  # 12 blocks: 2, 5, 8, 11
    return ViTBaseline(build_plain_vit(kwargs), out_indexes=out_indexes)


def _build_beit_baseline(kwargs: Arguments, norm: str) -> BEiTBaseline:
    vit = build_beit(kwargs, class_token=True)
    return BEiTBaseline(vit, out_indexes=kwargs["out_indices"], norm=norm)


_VIT_BASELINE = _OriginalClass({**VIT_DEFAULTS, "out_indices": None}, _build_vit_baseline)
_BEIT_ADAPTER_DEFAULTS = {**_ADAPTER_DEFAULTS, **BEIT_DEFAULTS}

# The trees differ in the maps that are added and in what with_cp recomputes.
_CLASSES: dict[str, _OriginalClass] = {
    "detection.ViTAdapter": _vit_adapter("last", recompute=False),
    "detection.ViTBaseline": _VIT_BASELINE,
    "detection.BEiTAdapter": _OriginalClass(
        {**_BEIT_ADAPTER_DEFAULTS, **WINDOW_DEFAULTS, "version": "new"}, _build_detection_beit
    ),
    "detection.UniPerceiverAdapter": _uni_perceiver_adapter("last", recompute=True),
    "segmentation.ViTAdapter": _vit_adapter("per_interaction", recompute=True),
    "segmentation.ViTBaseline": _VIT_BASELINE,
    "segmentation.BEiTAdapter": _OriginalClass(_BEIT_ADAPTER_DEFAULTS, _build_segmentation_beit),
    "segmentation.BEiTBaseline": _OriginalClass(_BEIT_BASELINE_DEFAULTS, _build_beit_baseline),
    "segmentation.UniPerceiverAdapter": _uni_perceiver_adapter("per_interaction", recompute=False),
}
