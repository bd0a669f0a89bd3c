"""Mask2Former with multi-scale deformable attention, as in the published ViT-Adapter segmentors.

A leaf sets ``model.backbone``, the number of classes and, where they differ, the queries::

    from ..common.models.mask2former import large as model
    model.backbone = ...
    model.head.transformer_decoder.num_classes = _num_classes

The sizes are for semantic segmentation; ``*_instance`` and ``*_panoptic`` are the same models with
other outputs, and have tasks of their own. A leaf with panoptic data also sets
``model.thing_classes``, the classes that are objects.
"""

from copy import deepcopy as _deepcopy

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from vit_adapter.mask2former import (
    HungarianMatcher,
    Mask2Former,
    Mask2FormerHead,
    MaskedTransformerDecoder,
    MSDeformAttnPixelDecoder,
    SetCriterion,
)

_strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def _criterion():
    return L(SetCriterion)(
        num_classes="${..head.transformer_decoder.num_classes}",
        # matching costs and loss weights are the same
        matcher=L(HungarianMatcher)(
            cost_class="${..class_weight}",
            cost_mask="${..mask_weight}",
            cost_dice="${..dice_weight}",
            num_points="${..num_points}",
        ),
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        no_object_weight=0.1,
        num_points=112 * 112,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )


def _mask2former(embed_dim, num_heads, encoder_ffn_dim, decoder_ffn_dim, use_checkpoint=False):
    pixel_decoder = L(MSDeformAttnPixelDecoder)(
        input_shape={
            # every output of the backbone has the width of its ViT
            name: L(ShapeSpec)(channels="${.....backbone.vit.embed_dim}", stride=stride)
            for name, stride in _strides.items()
        },
        embed_dim=embed_dim,
        mask_dim="${.embed_dim}",
        num_heads=num_heads,
        ffn_dim=encoder_ffn_dim,
        num_layers=6,
        num_encoder_levels=3,  # strides 32, 16 and 8
        num_points=4,
        use_checkpoint=use_checkpoint,
    )
    transformer_decoder = L(MaskedTransformerDecoder)(
        num_classes="???",
        num_queries=100,
        embed_dim="${..pixel_decoder.embed_dim}",
        mask_dim="${..pixel_decoder.mask_dim}",
        num_heads="${..pixel_decoder.num_heads}",
        ffn_dim=decoder_ffn_dim,
        num_layers=9,
        num_levels=3,
        use_checkpoint=use_checkpoint,
    )
    return L(Mask2Former)(
        backbone="???",
        head=L(Mask2FormerHead)(
            pixel_decoder=pixel_decoder, transformer_decoder=transformer_decoder
        ),
        criterion=_criterion(),
        # ImageNet mean and std in RGB, on the 0 to 255 scale
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
        semantic_on=True,
        instance_on=False,
        panoptic_on=False,
        thing_classes=[],
        object_mask_threshold=0.8,
        overlap_threshold=0.8,
        topk_per_image=100,
        postprocessing="original",
        resize_masks_first=False,
    )


# All attention heads of these are 32 wide.
base = _mask2former(256, 8, encoder_ffn_dim=1024, decoder_ffn_dim=2048)
large = _mask2former(1024, 32, encoder_ffn_dim=4096, decoder_ffn_dim=4096, use_checkpoint=True)

# The segmentors of DINOv2's and DINOv3's authors
dinov2 = _mask2former(1536, 32, encoder_ffn_dim=6144, decoder_ffn_dim=6144, use_checkpoint=True)
dinov3 = _mask2former(2048, 16, encoder_ffn_dim=4096, decoder_ffn_dim=4096, use_checkpoint=True)
# The same inference as DINOv3's for smaller ViTs
base_dinov3 = _deepcopy(base)
dinov3.resize_masks_first = base_dinov3.resize_masks_first = True

# Small enough for training on a CPU.
tiny = _mask2former(64, 2, encoder_ffn_dim=128, decoder_ffn_dim=128)
tiny.head.pixel_decoder.num_layers = 2
tiny.head.transformer_decoder.num_layers = 3
tiny.head.transformer_decoder.num_queries = 40
tiny.criterion.num_points = 1024

task = dict(name="semantic", num_classes="model.head.transformer_decoder.num_classes")


def _with_outputs(model, **outputs):
    """The same model without semantic scores."""
    model = _deepcopy(model)
    model.semantic_on = False
    model.update(outputs)
    return model


base_instance = _with_outputs(base, instance_on=True)
tiny_instance = _with_outputs(tiny, instance_on=True)
base_panoptic = _with_outputs(base, instance_on=True, panoptic_on=True, thing_classes="???")
tiny_panoptic = _with_outputs(tiny, instance_on=True, panoptic_on=True, thing_classes="???")
# More queries, as for models of this size on DINOv2 (EoMT, arXiv 2503.19108)
base_200_instance, base_200_panoptic = _deepcopy(base_instance), _deepcopy(base_panoptic)
for _model in (base_200_instance, base_200_panoptic):
    _model.head.transformer_decoder.num_queries = 200

instance_task = dict(name="instances", num_classes=task["num_classes"])
panoptic_task = dict(
    name="panoptic", num_classes=task["num_classes"], thing_classes="model.thing_classes"
)
