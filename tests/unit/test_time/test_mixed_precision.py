"""Models in 16 bits: the results are those of float32, up to rounding, and have the same types."""

import gc
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from detector_families import build, random_image
from torch import nn
from torchvision.ops import box_iou

from vit_adapter import model_zoo
from vit_adapter.config.model import build_model
from vit_adapter.test_time import MixedPrecision

BATCH = [{"image": random_image(96, 128), "height": 192, "width": 256}]
DETECTORS = ["mask_rcnn", "cascade", "htc", "atss", "gfl", "sparse"]
SEGMENTORS = ["upernet", "semantic_fpn", "mask2former", "mask2former_panoptic"]
WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "autocast": lambda model: MixedPrecision(model, torch.bfloat16),
    "converted": lambda model: deepcopy(model).bfloat16(),
}


def run(model):
    with torch.no_grad():
        return model(BATCH)[0]


def build_from_zoo(name):
    torch.manual_seed(0)
    cfg = model_zoo.get_config(f"quick_start/{name}_vit_adapter_tiny_scratch")
    cfg.train.device = "cpu"
    return build_model(cfg).eval()


def types(output):
    if "instances" in output:
        fields = output["instances"].get_fields()
        output = output | {n: getattr(value, "tensor", value) for n, value in fields.items()}
    return {name: value.dtype for name, value in output.items() if torch.is_tensor(value)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", DETECTORS)
def test_detectors(family, way):
    model = build(family)
    for name, weight in model.named_parameters():
        if name.endswith(("anchor_deltas.weight", "bbox_pred.weight")):
            weight.data *= 0.02
    expected, found = run(model), run(WAYS[way](model))
    assert types(found) == types(expected)
    expected, found = expected["instances"], found["instances"]
    overlaps = box_iou(expected.pred_boxes.tensor[:10], found.pred_boxes.tensor)
    overlaps[expected.pred_classes[:10, None] != found.pred_classes] = 0
    best, index = overlaps.max(1)
    is_same = (best > 0.98) & ((expected.scores[:10] - found.scores[index]).abs() < 0.02)
    assert is_same.sum() >= 9  # a pair of nearly equal scores may change places
    if expected.has("pred_masks"):
        equal = expected.pred_masks[:10][is_same] == found.pred_masks[index[is_same]]
        assert equal.float().mean() > 0.99


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SEGMENTORS)
def test_segmentation(name, way):
    model = build_from_zoo(name)
    expected, found = run(model), run(WAYS[way](model))
    assert types(found) == types(expected)
    if "sem_seg" in expected:
        torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], atol=0.15, rtol=0)
    else:
        scores, others = (
            output["instances"].scores.sort(descending=True)[0] for output in (found, expected)
        )
        # A mask of a few pixels at the threshold may be empty in one of them.
        assert abs(len(scores) - len(others)) <= 2 < len(others)
        count = min(len(scores), len(others))
        torch.testing.assert_close(scores[:count], others[:count], atol=0.01, rtol=0)


@pytest.mark.parametrize("family", [*DETECTORS, *SEGMENTORS])
def test_converted_models_normalise_images_in_float32(family):
    model = build_from_zoo(family) if family in SEGMENTORS else build(family)
    image = BATCH[0]["image"]
    expected = (image - model.pixel_mean) / model.pixel_std
    seen = []
    model.bfloat16().backbone.register_forward_pre_hook(lambda _, images: seen.extend(images))
    run(model)
    assert torch.equal(seen[0].bfloat16(), expected[None].bfloat16())


def test_the_model_is_left_as_it_was():
    model = build("mask_rcnn")
    wrapper = MixedPrecision(model, torch.bfloat16)
    assert sum(len(part._forward_hooks) for part in model.modules()) == 3
    weights = {parameter.dtype for parameter in model.parameters()}
    assert weights == {torch.float32} and not wrapper.training
    del wrapper
    gc.collect()
    assert sum(len(part._forward_hooks) for part in model.modules()) == 0
