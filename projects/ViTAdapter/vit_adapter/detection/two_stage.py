"""Detectron2's two-stage detector."""

from detectron2.modeling.meta_arch import GeneralizedRCNN

from vit_adapter.detection.convertible import ConvertibleDetector


class TwoStageDetector(ConvertibleDetector, GeneralizedRCNN):
    """``GeneralizedRCNN``, which normalises images in float32 even if its weights are in 16 bits.

    Arguments are those of ``GeneralizedRCNN``.
    """
