"""ViT-Adapter for Detectron2's yacs configs.

Importing this module registers two backbones. With one of them and :func:`add_vit_adapter_config`,
Detectron2's own ``DefaultPredictor``, ``DefaultTrainer`` and tools work::

    cfg = get_cfg()
    add_vit_adapter_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_vit_adapter_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]

The heads of :mod:`vit_adapter.segmentation` are also registered. The sizes are those of the
LazyConfigs, read from ``configs/common/models/vit_adapter.py``.
"""

from detectron2.config import CfgNode, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from omegaconf import DictConfig, OmegaConf

import vit_adapter.segmentation  # noqa: F401  (registers the heads)
from vit_adapter import model_zoo
from vit_adapter.backbone import ViTAdapter
from vit_adapter.checkpoint.pretrained import load_pretrained_vit

# yacs key -> keys that it sets in the LazyConfig of a size
_OVERRIDES = {
    "IMG_SIZE": ("vit.img_size",),
    "EMBED_DIM": ("vit.embed_dim",),
    "DEPTH": ("vit.depth",),
    "NUM_HEADS": ("vit.num_heads",),
    "WINDOW_SIZES": ("vit.window_sizes",),
    "LAYER_SCALE": ("vit.layer_scale",),
    "DROP_PATH_RATE": ("vit.drop_path_rate", "drop_path_rate"),
    "MODE": ("mode",),
    "INTERACTION_INDEXES": ("interaction_indexes",),
    "CONV_INPLANE": ("conv_inplane",),
    "NUM_POINTS": ("num_points",),
    "DEFORM_NUM_HEADS": ("deform_num_heads",),
    "DEFORM_RATIO": ("deform_ratio",),
    "WITH_CFFN": ("with_cffn",),
    "CFFN_RATIO": ("cffn_ratio",),
    "USE_EXTRA_EXTRACTOR": ("use_extra_extractor",),
    "VIT_FEATURE_FUSION": ("vit_feature_fusion",),
    "INIT_VALUES": ("init_values",),
    "NORM": ("norm",),
    "USE_CHECKPOINT": ("vit.use_checkpoint", "use_checkpoint"),
    "OUT_FEATURES": ("out_features",),
}


def add_vit_adapter_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.VIT_ADAPTER`` with the keys below.

    ``SIZE`` is ``"tiny"`` (default), ``"small"``, ``"base"`` or ``"large"``. ``VIT_CHECKPOINT``
    (default ``""``) is the path or URL of plain-ViT weights from which the trunk starts training;
    weights of the whole model go in ``MODEL.WEIGHTS`` as usual.

    All other keys are ``None``, which stands for the value of the size:

    =======================  ======================================================================
    key                      tiny / small / base / large
    =======================  ======================================================================
    ``IMG_SIZE``             224 / 224 / 224 / 384: image side of the pre-training
    ``EMBED_DIM``            192 / 384 / 768 / 1024
    ``DEPTH``                12 / 12 / 12 / 24; WINDOW_SIZES and INTERACTION_INDEXES depend on it
    ``NUM_HEADS``            3 / 6 / 12 / 16
    ``WINDOW_SIZES``         14 tokens, 0 (global) in the last block of each quarter; a list
    ``LAYER_SCALE``          True
    ``DROP_PATH_RATE``       0.1 / 0.2 / 0.3 / 0.4, of the ViT and of the adapter
    ``MODE``                 "full"; or "frozen", "light"
    ``INTERACTION_INDEXES``  the four quarters, as inclusive ranges: [[0, 2], [3, 5], ...]
    ``CONV_INPLANE``         64, width of the spatial prior module
    ``NUM_POINTS``           4
    ``DEFORM_NUM_HEADS``     6 / 6 / 12 / 16
    ``DEFORM_RATIO``         1.0 / 1.0 / 0.5 / 0.5
    ``WITH_CFFN``            True
    ``CFFN_RATIO``           0.25
    ``USE_EXTRA_EXTRACTOR``  True
    ``VIT_FEATURE_FUSION``   "last"; or "per_interaction", "none"
    ``INIT_VALUES``          0.0, initial gamma of the injectors
    ``NORM``                 "SyncBN"; or "BN", "FrozenBN", "GN", ...
    ``USE_CHECKPOINT``       False; True saves memory in training
    ``OUT_FEATURES``         ["res2", "res3", "res4", "res5"]
    =======================  ======================================================================

    Args:
        cfg: Detectron2's config; changed in place.
    """
    node = CfgNode({"SIZE": "tiny", "VIT_CHECKPOINT": ""})
    for key in _OVERRIDES:
        node[key] = None
    cfg.MODEL.VIT_ADAPTER = node


def _lazy_config(node: CfgNode) -> DictConfig:
    """The LazyConfig of the backbone that ``MODEL.VIT_ADAPTER`` describes."""
    sizes = model_zoo.get_config("common/models/vit_adapter")
    if node.SIZE not in sizes:
        raise ValueError(
            f"MODEL.VIT_ADAPTER.SIZE is {node.SIZE!r}; expected one of {sorted(sizes)}"
        )
    lazy = sizes[node.SIZE]
    for key, targets in _OVERRIDES.items():
        if node[key] is not None:
            for target in targets:
                OmegaConf.update(lazy, target, node[key], force_add=True)
    return lazy


@BACKBONE_REGISTRY.register()
def build_vit_adapter_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ViTAdapter:
    """Build the backbone that ``MODEL.VIT_ADAPTER`` describes: ``res2`` to ``res5``.

    Args:
        cfg: config after :func:`add_vit_adapter_config`.
        input_shape: shape of the images, which must have three channels.

    Raises:
        ValueError: the config does not have the node or has an invalid value, or the images do not
            have three channels.
    """
    if "VIT_ADAPTER" not in cfg.MODEL:
        raise ValueError(
            "the config has no MODEL.VIT_ADAPTER; call vit_adapter.add_vit_adapter_config(cfg)"
        )
    if input_shape.channels != 3:
        raise ValueError(
            f"MODEL.PIXEL_MEAN has {input_shape.channels} channels, expected 3. For other images, "
            f"use a LazyConfig with model.input_channels={input_shape.channels}."
        )
    backbone = instantiate(_lazy_config(cfg.MODEL.VIT_ADAPTER))
    if cfg.MODEL.VIT_ADAPTER.VIT_CHECKPOINT:
        load_pretrained_vit(backbone.vit, cfg.MODEL.VIT_ADAPTER.VIT_CHECKPOINT)
    return backbone


@BACKBONE_REGISTRY.register()
def build_vit_adapter_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build the same backbone followed by a feature pyramid network: ``p2`` to ``p6``.

    ``MODEL.FPN.IN_FEATURES`` (at least ``res2`` to ``res5`` for Mask R-CNN), ``OUT_CHANNELS``,
    ``NORM`` and ``FUSE_TYPE`` apply as for Detectron2's ResNets.

    Raises:
        ValueError: see :func:`build_vit_adapter_backbone`.
    """
    return FPN(
        bottom_up=build_vit_adapter_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
