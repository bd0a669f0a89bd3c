"""Any plain Vision Transformer of timm as a trunk, chosen by name."""

from vit_adapter.backbone.timm_vit.model import TimmViT

__all__ = ["TimmViT"]
