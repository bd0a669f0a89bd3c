"""The golden cases of the detectors.

They lie in the folder named by ``VIT_ADAPTER_GOLDEN_DETECTION``, by default
``tests/oracle/golden_detection``. Sizes come from the arrays, constants are those of the original's
configs. Parameters have the original's names and go through the converter.
"""

import torch
from case_files import Arrays, Case, CaseFiles, check
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from vit_adapter.checkpoint import load_strict
from vit_adapter.checkpoint.original import convert, convert_state_dict

FILES = CaseFiles("VIT_ADAPTER_GOLDEN_DETECTION", "golden_detection", inputs=("in.*",))
reads = FILES.reads


def check_detections(found: tuple[Tensor, Tensor, Tensor], expected: Arrays, image: int) -> Tensor:
    """Compare boxes (N, 4), scores (N,) and labels (N,) in any order.

    Args:
        found: boxes, scores and labels.
        expected: arrays ``boxes``, ``scores`` and ``labels``, numbered by image.
        image: number of the image.

    Returns:
        (N,), which detection is the first expected one, the second, ...
    """
    boxes, scores, labels = found
    expected_boxes, expected_scores, expected_labels = (
        expected[f"{name}{image}"] for name in ("boxes", "scores", "labels")
    )
    assert len(boxes) == len(expected_boxes)
    differences = torch.cdist(
        torch.cat([expected_boxes, expected_scores[:, None]], dim=1),
        torch.cat([boxes, scores[:, None]], dim=1),
    )
    differences[expected_labels[:, None] != labels] = 1e9  # pairs of another label come last
    pairs = torch.from_numpy(linear_sum_assignment(differences)[1])
    check(labels[pairs], expected_labels)
    check(boxes[pairs], expected_boxes)
    check(scores[pairs], expected_scores)
    return pairs


def load_parameters(part: nn.Module, parameters: Arrays, *, theirs: str, ours: str) -> None:
    """Give a part of a model its parameters, which have the original's names.

    Args:
        part: the module that is ``ours`` in a model.
        parameters: without the prefix ``theirs``.
        theirs: name of the part in the original, such as "roi_head".
        ours: name of the part here, such as "roi_heads".
    """
    converted = convert_state_dict({f"{theirs}.{k}": v for k, v in parameters.items()})
    load_strict(part, {k.removeprefix(f"{ours}."): v for k, v in converted.items()})


def check_gradients(
    part: nn.Module, expected: Arrays, *, kind: str, theirs: str, ours: str
) -> None:
    """Compare the gradients of some parameters, which have the original's names.

    ``kind`` is that of the case; the other arguments are as in :func:`load_parameters`.
    """
    assert expected
    conversion = convert({f"{theirs}.{k}": v for k, v in FILES.read(f"{kind}_params").items()})
    for name, gradient in expected.items():
        our_name = conversion.names[f"{theirs}.{name}"].removeprefix(f"{ours}.")
        check(part.get_parameter(our_name).grad, gradient)


def check_feature_gradients(features: Arrays, expected: Case) -> None:
    """Compare the gradients of features.

    Args:
        features: of the pyramid, finest first.
        expected: ``feat<level>`` for some levels; for all of them, ``feat_abs_sum``.
    """
    gradients = [
        torch.zeros_like(feature) if feature.grad is None else feature.grad
        for feature in features.values()
    ]
    for level, gradient in enumerate(gradients):
        if f"feat{level}" in expected:
            check(gradient, expected[f"feat{level}"])
    if "feat_abs_sum" in expected:
        check(torch.stack([each.abs().sum() for each in gradients]), expected["feat_abs_sum"])


def read_features(case: Case, *, first: int = 2) -> dict[str, Tensor]:
    """The maps of a pyramid whose finest level is p2, or p``first``."""
    maps = case.numbered("in.feat")
    return {f"p{i + first}": each.clone().requires_grad_() for i, each in enumerate(maps)}


def read_sizes(case: Arrays) -> list[tuple[int, int]]:
    return [tuple(size) for size in case["in.img_shape"].tolist()]


def read_images(case: Arrays) -> ImageList:
    """The images' sizes, and a batch without content."""
    sizes = read_sizes(case)
    return ImageList(torch.empty(len(sizes), 3, *case["in.batch_shape"].tolist()), sizes)


def read_targets(case: Arrays, *, empty: bool = False) -> list[Instances]:
    """The ground truths of each image; none if ``empty``."""
    targets = []
    for i, size in enumerate(read_sizes(case)):
        boxes, classes = case[f"in.gt_bboxes{i}"], case[f"in.gt_labels{i}"]
        truths = Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes)
        if f"in.gt_masks{i}" in case:
            truths.gt_masks = BitMasks(case[f"in.gt_masks{i}"])
        targets.append(truths[:0] if empty else truths)
    return targets


def read_proposals(case: Arrays, name: str) -> list[Instances]:
    return [
        Instances(size, proposal_boxes=Boxes(case[f"{name}{i}"]))
        for i, size in enumerate(read_sizes(case))
    ]
