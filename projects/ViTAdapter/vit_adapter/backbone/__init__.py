"""Plain Vision Transformers and the backbones that make feature pyramids of them."""

from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.backbone.spatial_prior import SpatialPriorModule
from vit_adapter.backbone.timm_vit import TimmViT
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.backbone.vit_adapter import ViTAdapter
from vit_adapter.backbone.vit_baseline import ViTBaseline

__all__ = ["PlainViT", "SpatialPriorModule", "TimmViT", "ViTAdapter", "ViTBaseline", "ViTTrunk"]
