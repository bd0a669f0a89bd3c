"""Detectron2's semantic segmentor."""

from detectron2.modeling.meta_arch import SemanticSegmentor

from vit_adapter.layers.converted import Float32Statistics


class PixelSegmentor(Float32Statistics, SemanticSegmentor):
    """``SemanticSegmentor``, which normalises images in float32 even if its weights are in 16 bits.

    Arguments are those of ``SemanticSegmentor``. The backbone converts the images.
    """
