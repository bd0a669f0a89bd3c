"""Evaluators of instance and semantic segmentation."""

from vit_adapter.evaluation.coco import build_coco_evaluator
from vit_adapter.evaluation.sem_seg import SemSegEvaluator

__all__ = ["SemSegEvaluator", "build_coco_evaluator"]
