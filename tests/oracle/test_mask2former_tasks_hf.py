"""Semantic, instance and panoptic segmentation equal Hugging Face's on the same weights.

Hugging Face's panoptic post-processing has two faults that the original's does not have. It counts
the pixels of a mask where probability times score is at least one half, which is the same if the
scores are almost one; the classifiers here are that certain. And after merging stuff it counts on
from the number of that stuff, so that a later segment may get the number of an earlier one; such
cases are left out.
"""

import re
from collections.abc import Callable, Iterator

import pytest
import torch
from detectron2.structures import BitMasks, Instances
from mask2former_hf import (
    CLASSES,
    QUERIES,
    criterion,
    hf_losses,
    make_config,
    pixel_decoders,
    pyramid,
    transformer_decoders,
)
from torch import Tensor
from transformers import Mask2FormerImageProcessor
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerForUniversalSegmentationOutput,
)

from vit_adapter.mask2former import MaskPredictions, prepare_targets
from vit_adapter.mask2former.panoptic import panoptic_segmentation
from vit_adapter.mask2former.postprocessing import RULES, instance_segmentation
from vit_adapter.mask2former.resizing import MaskResizer

SIDE = 384  # Hugging Face resizes all masks to this size
STUFF = (3, 4)
THINGS = tuple(set(range(CLASSES)) - set(STUFF))
RESIZE = MaskResizer((SIDE, SIDE), (SIDE, SIDE), (SIDE, SIDE), max_pixels=3 * SIDE**2)


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


Predictions = tuple[MaskPredictions, Mask2FormerForUniversalSegmentationOutput]


def predictions_of_both(certainty: float) -> Predictions:
    """Logits of the same features from decoders with the same weights."""
    config = make_config()
    pixel_decoder, their_pixel_decoder = pixel_decoders(config)
    decoder, their_decoder, classifier = transformer_decoders(config)
    for module in (decoder, their_decoder):
        for name, parameter in module.named_parameters():
            if re.search(r"norm\d?\.weight|quer", name):  # or all queries become the same
                parameter.data += 2 * parameter.data.sign()
    for layer in (decoder.cls_embed, classifier):
        layer.weight.data *= certainty
        layer.bias.data[-1] -= 2 * certainty
    features = pyramid(1, SIDE // 2, SIDE // 2)
    ours = decoder(pixel_decoder(features))[-1]
    decoded = their_pixel_decoder(list(features.values()), output_hidden_states=False)
    theirs = their_decoder(list(decoded.multi_scale_features), decoded.mask_features)
    hidden = theirs.intermediate_hidden_states[-1].transpose(0, 1)
    return ours, Mask2FormerForUniversalSegmentationOutput(
        class_queries_logits=classifier(hidden),
        masks_queries_logits=theirs.masks_queries_logits[-1],
    )


def generated(certainty: float) -> Predictions:
    """Logits of noisy discs, each of one class."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    centres, radii = torch.rand(QUERIES, 2, 1, 1) * 48, 4 + 12 * torch.rand(QUERIES, 1, 1)
    distances = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2).sqrt()
    masks = (radii - distances + 0.3 * torch.randn(QUERIES, 48, 48))[None]
    classes = torch.randn(1, QUERIES, CLASSES + 1)
    classes[0, range(QUERIES), torch.randint(CLASSES + 1, (QUERIES,))] += certainty
    return MaskPredictions(classes, masks), Mask2FormerForUniversalSegmentationOutput(
        class_queries_logits=classes, masks_queries_logits=masks
    )


@torch.no_grad()
@pytest.mark.parametrize("make", [predictions_of_both, generated])
def test_instances(make: Callable[..., Predictions]) -> None:
    for _ in range(3):
        ours, theirs = make(certainty=1.0)
        instances = instance_segmentation(
            ours.class_logits[0], ours.mask_logits[0], resize=RESIZE, topk=QUERIES
        )
        (expected,) = Mask2FormerImageProcessor().post_process_instance_segmentation(
            theirs, threshold=0.0, return_binary_maps=True
        )
        instances = instances[instances.pred_masks.flatten(1).any(1)]  # theirs leave out the others
        instances = instances[instances.scores.argsort()]
        infos = expected["segments_info"]
        scores = torch.tensor([info["score"] for info in infos])  # rounded
        order = scores.argsort().tolist()
        assert 0 < len(instances) == len(infos)
        assert instances.pred_classes.tolist() == [infos[i]["label_id"] for i in order]
        torch.testing.assert_close(instances.scores, scores[order], rtol=0, atol=1e-6)
        assert torch.equal(instances.pred_masks, expected["segmentation"][order].bool())


def merged(infos: list[dict]) -> list[dict] | None:
    """Hugging Face's list as ours, or None if two of its segments have the same number."""
    segments: dict[int, dict] = {}
    for info in infos:
        segment = segments.setdefault(
            info["id"],
            {
                "id": info["id"],
                "isthing": info["label_id"] in THINGS,
                "category_id": info["label_id"],
                "score": 0.0,
            },
        )
        if segment["category_id"] != info["label_id"] or (segment["score"] and segment["isthing"]):
            return None
        segment["score"] = max(segment["score"], info["score"])
    return list(segments.values())


@torch.no_grad()
@pytest.mark.parametrize(("make", "tries"), [(predictions_of_both, 12), (generated, 30)])
def test_panoptic(make: Callable[..., Predictions], tries: int) -> None:
    torch.manual_seed(1)
    lengths = []
    for _ in range(tries):
        ours, theirs = make(certainty=40.0)
        segmentation, segments = panoptic_segmentation(
            ours.class_logits[0],
            ours.mask_logits[0],
            resize=RESIZE,
            thing_classes=THINGS,
            object_mask_threshold=0.8,
            overlap_threshold=0.8,
            rules=RULES["hugging_face"],
        )
        (expected,) = Mask2FormerImageProcessor().post_process_panoptic_segmentation(
            theirs, threshold=0.8, label_ids_to_fuse=set(STUFF)
        )
        infos = merged(expected["segments_info"])
        if not infos:
            continue
        assert torch.equal(segmentation, expected["segmentation"])
        assert [segment.pop("area") for segment in segments] == [
            int((segmentation == segment["id"]).sum()) for segment in segments
        ]
        for segment, info in zip(segments, infos, strict=True):
            assert segment.pop("score") == pytest.approx(info.pop("score"), abs=1e-6)
            assert segment == info
        lengths.append(len(segments))
    assert len(lengths) > tries / 3 and sum(lengths) > len(lengths)


def semantic(size: tuple[int, int]) -> dict:
    labels = torch.randint(CLASSES, size)
    labels[:3] = 255
    return {"sem_seg": labels}


def instances(size: tuple[int, int]) -> dict:
    """Objects that overlap."""
    regions = Instances(size)
    regions.gt_classes = torch.randint(CLASSES, (4,))
    regions.gt_masks = BitMasks(torch.rand(4, *size) > 0.5)
    return {"instances": regions}


def panoptic(size: tuple[int, int]) -> dict:
    """Segments that do not overlap and do not cover the image; some have the same class."""
    regions = Instances(size)
    regions.gt_classes = torch.tensor([0, 0, 1, 3, 4])
    regions.gt_masks = BitMasks(torch.randint(6, size) == torch.arange(5)[:, None, None])
    return {"instances": regions}


@pytest.mark.parametrize("make", [semantic, instances, panoptic])
def test_losses_of_each_task(make: Callable[[tuple[int, int]], dict]) -> None:
    sizes = [(40, 64), (48, 50)]
    inputs = [{"image": torch.zeros(3, *size), **make(size)} for size in sizes]
    targets = prepare_targets(
        inputs, num_classes=CLASSES, padded_size=(64, 64), device=torch.device("cpu")
    )
    predictions = MaskPredictions(
        torch.randn(2, QUERIES, CLASSES + 1), torch.randn(2, QUERIES, 16, 16)
    )
    losses: list[dict[str, Tensor]] = []
    for compute in (
        lambda: criterion()([predictions], targets),
        lambda: hf_losses(make_config(), predictions, targets),
    ):
        torch.manual_seed(1)
        losses.append(compute())
    torch.testing.assert_close(*losses)
