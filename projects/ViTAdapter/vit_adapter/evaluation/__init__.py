"""Evaluators of instance, semantic and panoptic segmentation."""

from vit_adapter.evaluation.coco import build_coco_evaluator
from vit_adapter.evaluation.panoptic import PanopticEvaluator, build_panoptic_evaluator
from vit_adapter.evaluation.sem_seg import SemSegEvaluator

__all__ = [
    "PanopticEvaluator",
    "SemSegEvaluator",
    "build_coco_evaluator",
    "build_panoptic_evaluator",
]
