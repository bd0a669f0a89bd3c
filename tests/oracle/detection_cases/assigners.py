"""The assigners, each alone."""

import torch
from case_files import Case, check
from detection_cases.reader import reads
from detectron2.structures import Boxes

from vit_adapter.detection import MaxIoUAssigner
from vit_adapter.detection.boxes import overlap
from vit_adapter.detection.dense.assigner import (
    candidate_thresholds,
    match_anchors,
    nearest_anchors,
)

ASSIGNERS = {
    "rpn": MaxIoUAssigner(positive=0.7, negative=0.3, min_positive=0.3, low_quality=True),
    "maskrcnn": MaxIoUAssigner(positive=0.5, negative=0.5, min_positive=0.5, low_quality=True),
    "cascade0": MaxIoUAssigner(positive=0.5, negative=0.5, min_positive=0.5, low_quality=False),
    "cascade1": MaxIoUAssigner(positive=0.6, negative=0.6, min_positive=0.6, low_quality=False),
    "cascade2": MaxIoUAssigner(positive=0.7, negative=0.7, min_positive=0.7, low_quality=False),
    "htc1": MaxIoUAssigner(positive=0.6, negative=0.6, min_positive=0.6, low_quality=True),
    "htc2": MaxIoUAssigner(positive=0.7, negative=0.7, min_positive=0.7, low_quality=True),
}
TOPK = 9


def scenes(case: Case) -> list[Case]:
    names = sorted({name.split(".")[0] for name in case})
    assert names
    return [case.within(f"{name}.") for name in names]


@reads("max_iou_assigner", "*")
def test_max_iou_assigner(case: Case) -> None:
    for scene in scenes(case):
        truths, boxes = Boxes(scene["gt_bboxes"]), Boxes(scene["proposals"])
        assert len(scene["gt_labels"]) == len(truths)
        kinds = [name.split(".")[0] for name in scene if name.endswith(".gt_inds")]
        assert kinds
        for kind in kinds:
            matches, labels = ASSIGNERS[kind](truths, boxes)
            assigned = torch.where(labels > 0, matches + 1, labels)
            check(assigned, scene[f"{kind}.gt_inds"])


@reads("atss_assigner", "*")
def test_atss_assigner(case: Case) -> None:
    for scene in scenes(case):
        levels = scene["bboxes"].split(scene["num_level_bboxes"].tolist())
        truths = scene["gt_bboxes"]
        matched, ious = match_anchors(levels, truths, topk=TOPK)
        check(matched + 1, scene["assigned_gt_inds"])
        labels = torch.cat((scene["gt_labels"], torch.tensor([-1])))[matched]
        check(labels, scene["assigned_labels"])
        if not len(truths):
            continue
        check(ious, scene["max_overlaps"])
        candidates = nearest_anchors(levels, truths, topk=TOPK)
        clear = ~scene["tie_at_cut"]  # else the choice among equally near anchors is open
        assert scene["tie_order_irrelevant"]
        check(candidates.sort(0).values[:, clear], scene["candidates"][:, clear])
        thresholds = candidate_thresholds(overlap(scene["bboxes"][candidates], truths)[0])
        check(thresholds[clear], scene["iou_threshold"][clear])
