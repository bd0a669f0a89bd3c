"""Sparse R-CNN (arXiv 2011.12450) as the published models have it."""

from vit_adapter.detection.sparse_rcnn.criterion import ProposalCriterion
from vit_adapter.detection.sparse_rcnn.dynamic_conv import DynamicConv
from vit_adapter.detection.sparse_rcnn.heads import SparseHeads
from vit_adapter.detection.sparse_rcnn.matcher import ProposalMatcher
from vit_adapter.detection.sparse_rcnn.proposals import LearnedProposals
from vit_adapter.detection.sparse_rcnn.stage import InteractionStage

__all__ = [
    "DynamicConv",
    "InteractionStage",
    "LearnedProposals",
    "ProposalCriterion",
    "ProposalMatcher",
    "SparseHeads",
]
