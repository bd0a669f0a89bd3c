"""The hybrid task cascade in several views, from the maps of each view to the merged objects."""

from collections.abc import Iterator

import pytest
import torch
from case_files import Arrays, Case, check
from detection_cases.htc import build_htc
from detection_cases.maps import Maps
from detection_cases.reader import FILES, reads
from detection_cases.rpn import build_rpn
from detectron2.structures import Instances
from torch import Tensor

from vit_adapter.detection.boxes import clip_boxes
from vit_adapter.detection.htc import HybridTaskCascade
from vit_adapter.test_time import DetectorViews, Suppression

# Constants of the case: numbers of proposals and detections, areas of the boxes of each scale
PROPOSALS, DETECTIONS = 25, 30
AREAS = [(96**2, None), (32**2, None), (None, 96**2)]


class StoredViews(DetectorViews):
    """Sees the views of a case, compares what it finds in each, and keeps the masks."""

    case: Case

    def _views(self, image: Tensor) -> Iterator[tuple[int, Tensor, bool]]:
        for index in range(2 * len(AREAS)):
            self.view = self.case.within(f"view{index}.")
            self.model.backbone = Maps(self.view.numbered("feat"), prefix="p")
            size, factors = self.view["img_shape"], self.view["scale_factor"]
            check(size / self.case["ori_shape"], factors[:2].flip(0), tolerance=1e-6)
            yield index // 2, torch.zeros(3, *size.tolist()), bool(self.view["flip"])

    def _in_range(self, found: Instances, scale: int, size: tuple[int, int]) -> Instances:
        kept = super()._in_range(found, scale, size)
        scores = self.view["scores"][self.view["kept"], :-1]
        check(kept.scores, scores[scores > 0.001].sort(descending=True).values)
        return kept

    def _average_masks(self, merged: Instances, views: list) -> Tensor:
        self.masks = super()._average_masks(merged, views)
        return self.masks.float()  # to be pasted


def build_views(case: Case) -> StoredViews:
    rpn = build_rpn("cascade")
    rpn.post_nms_topk[False] = PROPOSALS
    model = HybridTaskCascade(
        backbone=Maps([]),
        proposal_generator=rpn,
        roi_heads=build_htc(FILES.read("htc_params"), is_fine_tuned=False),
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
    )
    views = StoredViews(
        model.eval(),
        flip=True,
        scales=[int(case[f"view{2 * i}.img_shape"].min()) for i in range(len(AREAS))],
        area_ranges=AREAS,
        max_detections=DETECTIONS,
        nms=Suppression(method="linear", iou_threshold=0.5, min_score=0.001),
    )
    views.case = case
    return views


@reads("htc_aug", "*")
def test_htc_in_several_views(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    views = build_views(case)
    watch_views(views, monkeypatch)
    height, width = case["ori_shape"].tolist()
    found = views([{"image": torch.zeros(3, 1, 1), "height": height, "width": width}])
    found = found[0]["instances"]
    check(found.pred_classes, case["det.labels"])
    # The original rounds the scales of the views to float32.
    close = {"rtol": 0, "atol": 1e-7 * max(height, width)}
    boxes_scores = torch.cat([found.pred_boxes.tensor, found.scores[:, None]], dim=1)
    torch.testing.assert_close(boxes_scores, case["det.boxes_scores"], **close)
    masks = case["det.masks_first6"]
    check(views.masks[: len(masks), 0], masks, tolerance=1e-6)


def watch_views(views: StoredViews, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the proposals of each view, and its boxes and scores after the last stage."""
    heads = views.model.roi_heads
    predictor = heads.box_predictor[-1]
    detect, inference = heads._detect, predictor.inference

    def check_proposals(features: Arrays, proposals: list[Instances]):
        check(proposals[0].proposal_boxes.tensor, views.view["proposals"][:, :4])
        check(proposals[0].objectness_logits.sigmoid(), views.view["proposals"][:, 4])
        return detect(features, proposals)

    def check_view(predictions: tuple[Tensor, Tensor], regions: list[Instances]):
        boxes = predictor.predict_boxes(predictions, regions)[0]
        check(clip_boxes(boxes, regions[0].image_size), views.view["boxes"])
        check(predictor.predict_probs(predictions, regions)[0], views.view["scores"])
        return inference(predictions, regions)

    monkeypatch.setattr(heads, "_detect", check_proposals)
    monkeypatch.setattr(predictor, "inference", check_view)
