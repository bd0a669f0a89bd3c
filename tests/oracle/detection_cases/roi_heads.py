"""What the cases of two-stage detectors have in common."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from case_files import Arrays, Case, check
from detection_cases.reader import check_detections
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch import Tensor, nn

from vit_adapter.checkpoint.original import convert_state_dict
from vit_adapter.detection import GIoUBoxPredictor, MaxIoUAssigner

LOSSES = {"loss_cls": "loss_cls", "loss_box_reg": "loss_bbox", "loss_mask": "loss_mask"}


def set_widths(box_head: DictConfig, mask_head: DictConfig, parameters: Arrays, stage: str) -> None:
    """Give a box head and a mask head the channels of their parameters.

    Args:
        box_head, mask_head: their configs.
        parameters: of all heads, with the original's names.
        stage: "" if there is only one, else such as ".0".
    """

    def widths(pattern: str) -> list[int]:
        layers = {
            int(found[1]): len(value)
            for name, value in parameters.items()
            if (found := re.fullmatch(pattern, name))
        }
        return [layers[i] for i in range(len(layers))]

    stage = re.escape(stage)
    box_head.conv_dims = widths(rf"bbox_head{stage}\.shared_convs\.(\d+)\.conv\.weight")
    box_head.fc_dims = widths(rf"bbox_head{stage}\.shared_fcs\.(\d+)\.weight")
    convs = widths(rf"mask_head{stage}\.convs\.(\d+)\.conv\.weight")
    mask_head.conv_dims = [*convs, convs[-1]]  # the last one is the upsampling


def check_sampled(
    expected: Case,
    proposals: Instances,
    targets: Instances,
    image: int,
    *,
    assigner: MaxIoUAssigner,
    boxes: Tensor,
    kinds: Sequence[str] = ("pos", "neg"),
) -> None:
    """Compare how the proposals of an image are assigned, and the boxes that are sampled.

    Args:
        expected: ``assigned_gt_inds``, ``pos_inds`` and others, numbered by image, and
            ``proposals`` unless they are inputs.
        proposals, targets: what is assigned, and to what.
        image: number of the image.
        assigner: assigns the proposals.
        boxes: (R, 4), the sampled boxes.
        kinds: which samples they are.
    """
    if f"proposals{image}" in expected:
        check(proposals.proposal_boxes.tensor, expected[f"proposals{image}"])
    matches, labels = assigner(targets.gt_boxes, proposals.proposal_boxes)
    assigned = torch.where(labels > 0, matches + 1, labels)
    check(assigned, expected[f"assigned_gt_inds{image}"])
    candidates = torch.cat([targets.gt_boxes.tensor, proposals.proposal_boxes.tensor])
    indices = torch.cat([expected[f"{kind}_inds{image}"] for kind in kinds])
    check(boxes, candidates[indices])


def check_regions(expected: Case, regions: list[Instances], predictor: nn.Module) -> None:
    """Compare the regions that a stage learns from, and what it learns."""
    for i, image in enumerate(regions):
        owners = expected[f"pos_assigned_gt{i}"]
        check(image.gt_index[: len(owners)], owners)
        check(image.is_gt.sum(), torch.tensor(len(owners.unique())))
    check(with_image(regions), expected["rois"])
    labels = torch.cat([image.gt_classes for image in regions])
    check(labels, expected["labels"])
    targets = torch.cat([image.gt_boxes.tensor for image in regions])
    if not isinstance(predictor, GIoUBoxPredictor):
        boxes = torch.cat([image.proposal_boxes.tensor for image in regions])
        targets = predictor.box2box_transform.get_deltas(boxes, targets)
    background = labels == predictor.num_classes
    check(targets.masked_fill(background[:, None], 0), expected["bbox_targets"])


def with_image(regions: list[Instances]) -> Tensor:
    """The boxes (R, 5) of all images, the number of the image first."""
    boxes = [image.proposal_boxes.tensor for image in regions]
    numbers = [part.new_full((len(part), 1), i) for i, part in enumerate(boxes)]
    return torch.cat([torch.cat(numbers), torch.cat(boxes)], dim=1)


def watch_predictions(predictor: nn.Module, expected: Case) -> None:
    """Compare what a predictor returns; in training, the share of right classes, too."""

    def compare(module: nn.Module, inputs: tuple, outputs: tuple[Tensor, Tensor]) -> None:
        scores, deltas = outputs
        check(scores, expected["cls_score"])
        check(deltas, expected["bbox_pred"])
        if module.training:
            right = scores.argmax(dim=1) == expected["labels"]
            check(100 * right.double().mean(), expected["acc"].reshape(()))

    predictor.register_forward_hook(compare)


def watch_masks(mask_head: nn.Module, expected: Case) -> None:
    """Compare what a mask head learns, and the first masks that it predicts."""

    def compare(module: nn.Module, inputs: tuple[Tensor, list[Instances]]) -> None:
        features, regions = inputs
        labels = torch.cat([image.gt_classes for image in regions])
        check(labels, expected["labels"])
        targets = expected["targets"]
        masks = [
            image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, targets.shape[-1])
            for image in regions
            if len(image)
        ]
        check(torch.cat([targets[:0].bool(), *masks]), targets)
        first = expected["pred_first2"]
        logits = module.layers(features)[: len(first)]
        check(logits[torch.arange(len(first)), labels[: len(first)]], first)

    mask_head.register_forward_pre_hook(compare)


def check_buffers(heads: nn.Module, expected: Case) -> None:
    """The statistics of the batch norms after one training step."""
    assert expected
    buffers = dict(heads.named_buffers())
    stored = {f"roi_head.{name}": value for name, value in expected.items()}
    for name, value in convert_state_dict(stored).items():
        check(buffers[name.removeprefix("roi_heads.")], value)


def check_results(case: Case, i: int, found: Instances) -> None:
    """The detections of image ``i``, in the input and in the original image."""
    boxes = found.pred_boxes.tensor
    values = (boxes, found.scores, found.pred_classes)
    pairs = check_detections(values, case.within("test."), i)
    masks = case[f"test.masks{i}"]
    first = pairs[: len(masks)]
    check(found.pred_masks[first, 0], masks)
    rescaled = boxes / case["in.scale_factor"][i].repeat(2)
    check_detections((rescaled, *values[1:]), case.within("test_rescaled."), i)
    size = tuple(case["in.ori_shape"][i].tolist())
    pasted = paste_masks_in_image(masks, Boxes(rescaled[first]), size, threshold=0.5)
    expected = np.unpackbits(case[f"test_rescaled.pasted{i}"].numpy(), axis=-1, count=size[1])
    different = pasted != torch.from_numpy(expected).bool()
    assert different.sum() <= 2  # pixels at 0.5 up to rounding


def check_best(case: Case, i: int, found: Instances) -> None:
    """The five best detections of image ``i``."""
    computed = torch.cat([found.pred_boxes.tensor, found.scores[:, None]], dim=1)
    check(computed, case[f"test_max5.boxes_scores{i}"])
