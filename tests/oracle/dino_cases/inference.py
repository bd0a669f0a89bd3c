"""From images of any size to classes: windows, mirrored views, whole images."""

import torch
import torch.nn.functional as F
from case_files import Case, check
from dino_cases.models import build
from dino_cases.reader import FILES, check_map, reads
from torch import Tensor, nn

from vit_adapter.mask2former import HungarianMatcher, Mask2Former, SetCriterion
from vit_adapter.test_time import MultiScaleFlip, SlidingWindow

__all__ = [
    "test_dinov2_mirrored_views",
    "test_dinov2_whole_images",
    "test_dinov2_windows",
    "test_dinov3_cuts_small_images_into_squares",
    "test_dinov3_in_its_own_precision",
    "test_dinov3_views",
    "test_dinov3_whole_images",
    "test_dinov3_windows",
]


def segmentor(kind: str) -> Mask2Former:
    parts = build(kind)
    classes = parts.head.transformer_decoder.num_classes
    model = Mask2Former(
        backbone=parts.backbone,
        head=parts.head,
        criterion=SetCriterion(num_classes=classes, matcher=HungarianMatcher()),
        pixel_mean=[0.0] * 3,  # the images are normalised already
        pixel_std=[1.0] * 3,
        resize_masks_first=kind == "dinov3",
    )
    return model.eval()


def sliding(kind: str, case: str) -> SlidingWindow:
    options = FILES.config(kind)[case]
    return SlidingWindow(
        segmentor(kind),
        crop_size=[options["crop"]] * 2,
        stride=[options["stride"]] * 2,
        square_if_small=kind == "dinov3",
    )


@torch.no_grad()
def segment(model: nn.Module, image: Tensor, size: list[int] | None = None) -> Tensor:
    """Scores (1, K, H, W) of an image (1, 3, h, w), at its own size unless given another."""
    height, width = size or image.shape[-2:]
    image = image.to(torch.get_default_dtype())
    return model([{"image": image[0], "height": height, "width": width}])[0]["sem_seg"][None]


def segment_views() -> Tensor:
    """Mean probabilities of two images of the same scene and their mirror images."""
    images, out = FILES.read("dinov3_inference"), FILES.config("dinov3")["tta"]["out"]
    model = MultiScaleFlip(sliding("dinov3", "tta"), scales=[1.0], flip=True)
    return torch.stack([segment(model, images[f"tta_image{i}"], out) for i in (0, 1)]).mean(0)


def segment_squashed() -> Tensor:
    """Scores of a whole image, which is resized to 512 x 512 whatever its proportions."""
    image = FILES.read("dinov3_inference")["whole_image"]
    image = F.interpolate(image, (512, 512), mode="bilinear", antialias=True)
    return segment(segmentor("dinov3"), image, FILES.config("dinov3")["whole"]["out"])


@reads("dinov3_inference", "slide_windows", "slide_scores", "slide_map", "mask_margin")
def test_dinov3_windows(case: Case) -> None:
    model, image = sliding("dinov3", "slide"), case["slide_image"]
    check(segment(model, image), case["slide_windows"], tolerance=1e-6)  # stored in float32
    scores = segment(model, image, FILES.config("dinov3")["slide"]["out"])
    check(scores, case["slide_scores"])
    check_map(scores.argmax(1), case["slide_map"], case["slide_scores"])
    assert case["mask_margin"] > 1e-9  # more than the errors


@reads("dinov3_inference", "small_scores")
def test_dinov3_cuts_small_images_into_squares(case: Case) -> None:
    options = FILES.config("dinov3")["small"]
    assert max(case["small_image"].shape[-2:]) < options["crop"]
    scores = segment(sliding("dinov3", "small"), case["small_image"], options["out"])
    check(scores, case["small_scores"])


@reads("dinov3_inference", "tta_probabilities", "tta_map")
def test_dinov3_views(case: Case) -> None:
    probabilities = segment_views()
    check(probabilities, case["tta_probabilities"])
    check_map(probabilities.argmax(1), case["tta_map"], case["tta_probabilities"])


@reads("dinov3_inference", "whole_scores", "whole_map")
def test_dinov3_whole_images(case: Case) -> None:
    scores = segment_squashed()
    check(scores, case["whole_scores"])
    check_map(scores.argmax(1), case["whole_map"], case["whole_scores"])


@reads("dinov3_inference_literal", "slide_*", "tta_*", "whole_scores")
def test_dinov3_in_its_own_precision(case: Case) -> None:
    """The unpatched code rounds the scores of every window to bfloat16; this project does not."""
    slide_image = FILES.read("dinov3_inference")["slide_image"]
    scores = segment(
        sliding("dinov3", "slide"), slide_image, FILES.config("dinov3")["slide"]["out"]
    )
    for computed, name, labels in (
        (scores, "slide_scores", "slide_map"),
        (segment_views(), "tta_probabilities", "tta_map"),
    ):
        error = (computed - case[name]).norm() / case[name].norm()
        assert 1e-4 < error < 4e-3
        assert (computed.argmax(1) == case[labels]).double().mean() > 0.98
    check(segment_squashed(), case["whole_scores"], tolerance=1e-4)  # not rounded


@reads("dinov2_inference", "slide_scores", "slide_map", "mask_margin")
def test_dinov2_windows(case: Case) -> None:
    out = FILES.config("dinov2")["slide"]["out"]
    scores = segment(sliding("dinov2", "slide"), case["slide_image"], out)
    check(scores, case["slide_scores"])
    check_map(scores[0].argmax(0), case["slide_map"], case["slide_scores"][0])
    assert case["mask_margin"] > 1e-9  # more than the errors


@reads("dinov2_inference", "flip_probabilities", "flip_map")
def test_dinov2_mirrored_views(case: Case) -> None:
    model = MultiScaleFlip(sliding("dinov2", "slide"), scales=[1.0], flip=True)
    out = FILES.config("dinov2")["slide"]["out"]
    probabilities = segment(model, case["slide_image"], out)
    check(probabilities, case["flip_probabilities"])
    check_map(probabilities[0].argmax(0), case["flip_map"], case["flip_probabilities"][0])


@reads("dinov2_inference", "whole_scores", "whole_map")
def test_dinov2_whole_images(case: Case) -> None:
    scores = segment(
        segmentor("dinov2"), case["whole_image"], FILES.config("dinov2")["whole"]["out"]
    )
    check(scores, case["whole_scores"])
    check_map(scores[0].argmax(0), case["whole_map"], case["whole_scores"][0])
