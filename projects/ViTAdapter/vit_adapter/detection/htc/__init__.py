"""Hybrid Task Cascade (arXiv 1901.07518) as the published models have it."""

from vit_adapter.detection.htc.extra_attention import ExtraAttention
from vit_adapter.detection.htc.heads import HybridTaskCascadeHeads
from vit_adapter.detection.htc.mask_head import FlowMaskHead, mask_features
from vit_adapter.detection.htc.meta_arch import HybridTaskCascade
from vit_adapter.detection.htc.semantic_fusion import SemanticFusion
from vit_adapter.detection.htc.semantic_head import FusedSemanticHead

__all__ = [
    "ExtraAttention",
    "FlowMaskHead",
    "FusedSemanticHead",
    "HybridTaskCascade",
    "HybridTaskCascadeHeads",
    "SemanticFusion",
    "mask_features",
]
