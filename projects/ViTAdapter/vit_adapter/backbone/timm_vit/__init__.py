"""Any plain Vision Transformer of timm as a trunk, by its name."""

from vit_adapter.backbone.timm_vit.model import TimmViT

__all__ = ["TimmViT"]
