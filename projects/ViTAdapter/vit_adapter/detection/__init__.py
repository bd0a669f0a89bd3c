"""Detectors as the original trains them, where Detectron2's own parts give other numbers."""

from vit_adapter.detection.assigner import MaxIoUAssigner
from vit_adapter.detection.box_predictor import GIoUBoxPredictor
from vit_adapter.detection.box_transform import ClampedBox2BoxTransform
from vit_adapter.detection.cascade import CascadeMaskHeads
from vit_adapter.detection.channel_mapper import ChannelMapper
from vit_adapter.detection.dense import ATSS, GFL, ATSSHead, GFLHead, LastLevelStridedConvs
from vit_adapter.detection.losses import giou_loss
from vit_adapter.detection.padded_rcnn import PaddedRCNN
from vit_adapter.detection.pooler import FullPrecisionPooler
from vit_adapter.detection.proposals import InsideAnchorsRPN
from vit_adapter.detection.roi_heads import AssigningROIHeads
from vit_adapter.detection.sampling import sample_regions
from vit_adapter.detection.simple_pyramid import SimpleFeaturePyramid
from vit_adapter.detection.soft_nms import SoftNMSMethod, soft_nms
from vit_adapter.detection.sparse_rcnn import (
    InteractionStage,
    LearnedProposals,
    ProposalCriterion,
    ProposalMatcher,
    SparseHeads,
)
from vit_adapter.detection.two_stage import TwoStageDetector

__all__ = [
    "ATSS",
    "GFL",
    "ATSSHead",
    "AssigningROIHeads",
    "CascadeMaskHeads",
    "ChannelMapper",
    "ClampedBox2BoxTransform",
    "FullPrecisionPooler",
    "GFLHead",
    "GIoUBoxPredictor",
    "InsideAnchorsRPN",
    "InteractionStage",
    "LastLevelStridedConvs",
    "LearnedProposals",
    "MaxIoUAssigner",
    "PaddedRCNN",
    "ProposalCriterion",
    "ProposalMatcher",
    "SimpleFeaturePyramid",
    "SoftNMSMethod",
    "SparseHeads",
    "TwoStageDetector",
    "giou_loss",
    "sample_regions",
    "soft_nms",
]
