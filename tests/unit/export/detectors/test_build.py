"""Detectors as functions of tensors give the detections of the models themselves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_families import CONFIGS, build, random_image
from detectron2.config import instantiate
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.export import Dim

from vit_adapter.export.detectors import exportable_detector
from vit_adapter.export.export import export_model
from vit_adapter.export.formats import FORMATS
from vit_adapter.export.models import exportable
from vit_adapter.export.shapes import ImageShapes

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = sorted(CONFIGS.keys() - {"set"})


def make_model(family: str) -> nn.Module:
    """A model with small random weights: few boxes are empty, and no two scores are 1."""
    model = build(family)
    for name, module in model.named_modules():
        if name.endswith((".bbox_pred", ".anchor_deltas", ".cls_score")):
            module.weight.data *= 0.2
    return model


def make_images(count: int, height: int, width: int) -> Tensor:
    """Blocks of colour with noise, so that no two candidates have the same score."""
    torch.manual_seed(0)
    blocks = torch.stack([random_image(height, width, seed) for seed in range(count)])
    return (blocks + 20 * torch.rand(blocks.shape)).clamp(0, 255)


def of_model(model: nn.Module, images: Tensor) -> list[dict[str, Tensor]]:
    """What the model itself detects, before Detectron2 pastes masks and drops empty boxes."""
    batch = [{"image": image} for image in images]
    if isinstance(model, GeneralizedRCNN):
        return [_by_name(found) for found in model.inference(batch, do_postprocess=False)]
    padded = model.preprocess_image(batch)
    features = model.backbone(padded.tensor)
    maps = [features[name] for name in model.head_in_features]
    return [_by_name(found) for found in model.forward_inference(padded, maps, model.head(maps))]


def _by_name(found: Instances) -> dict[str, Tensor]:
    named = {"scores": found.scores, "classes": found.pred_classes}
    named |= {"masks": found.pred_masks[:, 0]} if found.has("pred_masks") else {}
    return in_order({"boxes": found.pred_boxes.tensor} | named)


def of_export(detector: Callable, names: tuple[str, ...], images: Tensor) -> list[dict]:
    """What the exported form detects, without the padding rows, which have to be 0."""
    outputs = dict(zip(names, detector(images), strict=True))
    counts = outputs.pop("count").tolist()
    for values in outputs.values():
        assert all(not rows[count:].any() for rows, count in zip(values, counts, strict=True))
    return [
        in_order({name: values[i, :count] for name, values in outputs.items()})
        for i, count in enumerate(counts)
    ]


def in_order(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sort by score, and by box where scores are equal."""
    boxes, scores = found["boxes"].numpy(), found["scores"].numpy()
    order = torch.from_numpy(np.lexsort((*boxes.T, -scores)))
    return {name: values[order] for name, values in found.items()}


def assert_same(found: list[dict], expected: list[dict], **tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, values in other.items():
            torch.testing.assert_close(one[name], values, **tolerance or {"rtol": 0, "atol": 1e-6})


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_detections_are_those_of_the_model(family: str) -> None:
    model = make_model(family)
    detector = exportable_detector(model)
    for size in [(64, 96), (61, 90)]:  # the second is padded
        images = make_images(2, *size)
        expected = of_model(model, images)
        assert all(len(found["boxes"]) > 2 for found in expected)
        assert_same(of_export(detector, detector.output_names, images), expected)


@pytest.mark.parametrize("family", ["mask_rcnn", "cascade", "atss", "gfl"])
@torch.no_grad()
def test_images_without_detections(family: str) -> None:
    model = make_model(family)
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 1.0
    detector = exportable_detector(model)
    outputs = dict(zip(detector.output_names, detector(make_images(2, 64, 96)), strict=True))
    assert outputs["boxes"].shape[:2] == (2, 100)
    assert not any(values.any() for values in outputs.values())


@torch.no_grad()
def test_one_image_without_detections() -> None:
    model = make_model("gfl")
    images = make_images(2, 96, 160)
    best = [found["scores"].max().item() for found in of_model(model, images)]
    model.test_score_thresh = min(best)
    expected = of_model(model, images)
    assert sorted(len(found["boxes"]) > 0 for found in expected) == [False, True]
    detector = exportable_detector(model)
    assert_same(of_export(detector, detector.output_names, images), expected)


@torch.no_grad()
def test_detector_without_masks() -> None:
    config = CONFIGS["mask_rcnn"]()
    for key in ("mask_in_features", "mask_pooler", "mask_head"):
        config.roi_heads[key] = None
    detector = exportable_detector(instantiate(config))
    assert detector.output_names == ("boxes", "scores", "classes", "count")
    assert len(detector(make_images(1, 64, 64))) == 4


@pytest.mark.slow
@torch.no_grad()
def test_export_with_dynamic_batch_and_sizes() -> None:
    detector = exportable_detector(make_model("mask_rcnn"))
    # More than one cell on the coarsest level, of stride 64.
    sides = {2: 32 * Dim("rows", min=3, max=40), 3: 32 * Dim("columns", min=3, max=40)}
    dynamic = {"images": {0: Dim("batch", max=16), **sides}}
    exported = torch.export.export(
        detector, (make_images(2, 128, 160),), dynamic_shapes=dynamic, strict=False
    ).module()
    for size in [(1, 96, 160), (3, 128, 96)]:
        images = make_images(*size)
        expected = of_export(detector, detector.output_names, images)
        assert_same(of_export(exported, detector.output_names, images), expected)


@pytest.mark.slow
def test_onnx_with_dynamic_batch_and_sizes(tmp_path: Path) -> None:
    for package in FORMATS["onnx"].packages:
        pytest.importorskip(package)
    core = exportable(make_model("atss"))
    side = core.shortest_side
    shapes = ImageShapes(1, side, side, dynamic_batch=True, dynamic_size=True, shortest_side=side)
    path = tmp_path / "model.onnx"
    check = export_model(core, shapes, path, file_format="onnx", description={})
    assert check.largest < 1e-4 and check.empty == ()
    assert [shape[0] for shape in check.shapes] == [1, 1, 3]
