"""Mask2Former (arXiv 2112.01527) with Detectron2's conventions.

Shapes: B batch, K classes, H/W sides of an image in pixels.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from vit_adapter.layers import GridSize, fix_traced_size
from vit_adapter.layers.converted import Float32Statistics, in_dtype_of_weights
from vit_adapter.mask2former.criterion import SetCriterion
from vit_adapter.mask2former.matcher import HungarianMatcher
from vit_adapter.mask2former.panoptic import panoptic_segmentation
from vit_adapter.mask2former.pixel_decoder import MSDeformAttnPixelDecoder
from vit_adapter.mask2former.postprocessing import (
    RULES,
    instance_segmentation,
    semantic_scores,
    semantic_scores_of_pixels,
)
from vit_adapter.mask2former.resizing import MaskResizer
from vit_adapter.mask2former.targets import prepare_targets
from vit_adapter.mask2former.transformer_decoder import MaskedTransformerDecoder, MaskPredictions

_HEAD_DIM = 32


class Mask2FormerHead(nn.Module):
    """A pixel decoder, and a transformer decoder on its features.

    Args:
        pixel_decoder: makes features from those of a backbone.
        transformer_decoder: makes predictions from these features.

    Raises:
        ValueError: the widths of the two decoders differ.
    """

    def __init__(
        self,
        *,
        pixel_decoder: MSDeformAttnPixelDecoder,
        transformer_decoder: MaskedTransformerDecoder,
    ) -> None:
        super().__init__()
        widths = [(part.embed_dim, part.mask_dim) for part in (pixel_decoder, transformer_decoder)]
        if widths[0] != widths[1]:
            raise ValueError(
                "pixel decoder and transformer decoder must have the same (embed_dim, mask_dim), "
                f"got {widths[0]} and {widths[1]}"
            )
        self.pixel_decoder = pixel_decoder
        self.transformer_decoder = transformer_decoder

    def forward(
        self, features: Mapping[str, Tensor], *, intermediate: bool = False
    ) -> list[MaskPredictions]:
        """See :meth:`MaskedTransformerDecoder.forward`; ``features`` are the backbone's."""
        return self.transformer_decoder(self.pixel_decoder(features), intermediate=intermediate)


@META_ARCH_REGISTRY.register()
class Mask2Former(Float32Statistics):
    """Semantic, instance and panoptic segmentation by queries that predict a class and a mask.

    Args:
        backbone: computes the feature maps that the head uses.
        head: computes the predictions.
        criterion: computes the training losses.
        pixel_mean: mean of each channel of the input.
        pixel_std: standard deviation of each channel.
        semantic_on: predict "sem_seg".
        instance_on: predict "instances".
        panoptic_on: predict "panoptic_seg".
        thing_classes: classes, from 0, whose regions are separate objects. If empty, instance
            segmentation treats all classes as objects, and panoptic segmentation none.
        object_mask_threshold: least class probability of a panoptic segment.
        overlap_threshold: least share of its mask that a panoptic segment must keep.
        topk_per_image: largest number of instances.
        postprocessing: name of the rules for instances and panoptic segments: "original" or
            "mask2former" (the same), "things_first" or "hugging_face"; see :class:`Rules`.
        resize_masks_first: whether the scores of "sem_seg" come from mask logits at the size of the
            output, as in DINOv3's segmentor. Otherwise, they are computed at stride 4 and resized.

    Raises:
        ValueError: nothing is to be predicted, or the parts or classes do not fit.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: Mask2FormerHead,
        criterion: SetCriterion,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        semantic_on: bool = True,
        instance_on: bool = False,
        panoptic_on: bool = False,
        thing_classes: Collection[int] = (),
        object_mask_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        topk_per_image: int = 100,
        postprocessing: str = "original",
        resize_masks_first: bool = False,
    ) -> None:
        super().__init__()
        if not (semantic_on or instance_on or panoptic_on):
            raise ValueError("at least one of semantic_on, instance_on and panoptic_on must be set")
        num_classes = head.transformer_decoder.num_classes
        if criterion.num_classes != num_classes:
            raise ValueError(
                f"head and criterion must have the same num_classes, got {num_classes} and "
                f"{criterion.num_classes}"
            )
        if topk_per_image < 1:
            raise ValueError(f"topk_per_image must be at least 1, got {topk_per_image}")
        if postprocessing not in RULES:
            raise ValueError(
                f"postprocessing must be one of {', '.join(RULES)}, got {postprocessing!r}"
            )
        unknown = [label for label in thing_classes if not 0 <= label < num_classes]
        if unknown:
            raise ValueError(f"thing_classes must be from 0 to {num_classes - 1}, got {unknown}")
        self.backbone = backbone
        self.head = head
        self.criterion = criterion
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        self.semantic_on = semantic_on
        self.instance_on = instance_on
        self.panoptic_on = panoptic_on
        self.thing_classes = tuple(thing_classes)
        self.object_mask_threshold = object_mask_threshold
        self.overlap_threshold = overlap_threshold
        self.topk_per_image = topk_per_image
        self.rules = RULES[postprocessing]
        self.resize_masks_first = resize_masks_first

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``MODEL`` of a yacs config: semantic segmentation, proportioned like size "base".

        ``SEM_SEG_HEAD`` gives ``IN_FEATURES``, ``NUM_CLASSES`` and, as the width, ``CONVS_DIM``
        (256 in size "base"). Only LazyConfigs can set everything else.
        """
        node = cfg.MODEL.SEM_SEG_HEAD
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        width = node.CONVS_DIM
        sizes = {"embed_dim": width, "mask_dim": width, "num_heads": width // _HEAD_DIM}
        head = Mask2FormerHead(
            pixel_decoder=MSDeformAttnPixelDecoder(
                {name: shape[name] for name in node.IN_FEATURES}, **sizes, ffn_dim=4 * width
            ),
            transformer_decoder=MaskedTransformerDecoder(
                **sizes, num_classes=node.NUM_CLASSES, num_queries=100, ffn_dim=8 * width
            ),
        )
        return {
            "backbone": backbone,
            "head": head,
            "criterion": SetCriterion(num_classes=node.NUM_CLASSES, matcher=HungarianMatcher()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        """Where the images are processed."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list:
        """Compute the losses in training, and segmentations otherwise.

        Args:
            batched_inputs: one mapping per image: "image" (channels, H, W); in training "sem_seg"
                or "instances", see :func:`prepare_targets`; in inference "height" and "width" of
                the output, by default those of the image.

        Returns:
            In training, the weighted losses; see :meth:`SetCriterion.forward`. In inference, a dict
            per image with those of the following that are on: "sem_seg", scores (K, height, width);
            "instances", see :func:`instance_segmentation`; "panoptic_seg", see
            :func:`panoptic_segmentation`.

        Raises:
            ValueError: the labels do not fit; see :func:`prepare_targets`.
        """
        images = [fix_traced_size(inputs["image"]).to(self.device) for inputs in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        images = ImageList.from_tensors(images, self.backbone.size_divisibility)
        features = self.backbone(in_dtype_of_weights(images.tensor, self.backbone))
        predictions = self.head(features, intermediate=self.training)
        padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        if self.training:
            targets = prepare_targets(
                batched_inputs,
                num_classes=self.criterion.num_classes,
                padded_size=padded_size,
                device=self.device,
            )
            return self.criterion(predictions, targets)
        with torch.autocast(self.device.type, enabled=False):  # scores and masks in float32
            return self.segment(predictions[-1], batched_inputs, images.image_sizes, padded_size)

    def segment(
        self,
        predictions: MaskPredictions,
        batched_inputs: Sequence[Mapping[str, Any]],
        image_sizes: Sequence[GridSize],
        padded_size: GridSize,
    ) -> list[dict[str, Any]]:
        """Make the outputs of each image at the size that its input requests."""
        at_stride_4 = self.semantic_on and not self.resize_masks_first
        scores = semantic_scores(*predictions) if at_stride_4 else None
        outputs = []
        for i, (inputs, image_size) in enumerate(zip(batched_inputs, image_sizes, strict=True)):
            output_size = (
                int(inputs.get("height", image_size[0])),
                int(inputs.get("width", image_size[1])),
            )
            resize = MaskResizer(padded_size, image_size, output_size)
            prediction = (predictions.class_logits[i], predictions.mask_logits[i])
            output: dict[str, Any] = {}
            if scores is not None:
                output["sem_seg"] = resize(scores[i])
            elif self.semantic_on:
                output["sem_seg"] = semantic_scores_of_pixels(
                    *prediction, resize=replace(resize, in_one_step=True)
                )
            if self.instance_on:
                output["instances"] = instance_segmentation(
                    *prediction,
                    resize=resize,
                    topk=self.topk_per_image,
                    thing_classes=self.thing_classes,
                    rules=self.rules,
                )
            if self.panoptic_on:
                output["panoptic_seg"] = panoptic_segmentation(
                    *prediction,
                    resize=resize,
                    thing_classes=self.thing_classes,
                    object_mask_threshold=self.object_mask_threshold,
                    overlap_threshold=self.overlap_threshold,
                    rules=self.rules,
                )
            outputs.append(output)
        return outputs
