"""Plain Vision Transformers, and backbones that turn them into feature pyramids."""

from vit_adapter.backbone.beit import BEiT
from vit_adapter.backbone.beit_baseline import BEiTBaseline
from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.backbone.single_scale import SingleScaleViT
from vit_adapter.backbone.spatial_prior import SpatialPriorModule
from vit_adapter.backbone.timm_vit import TimmViT
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.backbone.uni_perceiver import UniPerceiver
from vit_adapter.backbone.vit_adapter import ViTAdapter
from vit_adapter.backbone.vit_baseline import ViTBaseline

__all__ = [
    "BEiT",
    "BEiTBaseline",
    "PlainViT",
    "SingleScaleViT",
    "SpatialPriorModule",
    "TimmViT",
    "UniPerceiver",
    "ViTAdapter",
    "ViTBaseline",
    "ViTTrunk",
]
