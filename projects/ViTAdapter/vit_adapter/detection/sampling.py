"""Sampling of the regions that heads are trained on."""

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from vit_adapter.detection.assigner import MaxIoUAssigner
from vit_adapter.layers.image_random import random_numbers_of

__all__ = ["log_samples", "sample_regions", "select_foreground"]


@torch.no_grad()
def sample_regions(
    proposals: list[Instances],
    targets: list[Instances],
    *,
    assigner: MaxIoUAssigner,
    num_classes: int,
    batch_size: int,
    positive_fraction: float,
) -> list[Instances]:
    """Assign the proposals of each image to its ground truths, and choose some at random.

    The ground truths are added in front of the proposals. Each is assigned to itself, even if
    another one is equal. If there are no more boxes than wanted, all are taken in their order.

    Args:
        proposals: of each image, with ``proposal_boxes``.
        targets: ground truths of each image, with ``gt_boxes`` and ``gt_classes``.
        assigner: assigns the proposals.
        num_classes: label of the background.
        batch_size: number of regions to choose from an image.
        positive_fraction: largest share of foreground among ``batch_size``.

    Returns:
        The regions of each image, first the foreground, then the background, with
        ``proposal_boxes``, ``gt_classes``, ``gt_boxes`` (that of the region itself for background),
        ``gt_index`` (which ground truth; 0 for background) and ``is_gt`` (whether the region is a
        ground truth).
    """
    regions = []
    for index, (image, truths) in enumerate(zip(proposals, targets, strict=True)):
        with random_numbers_of(index, image.proposal_boxes.device):
            sampled = _sample_image(
                image.proposal_boxes,
                truths,
                assigner=assigner,
                num_classes=num_classes,
                batch_size=batch_size,
                positive_fraction=positive_fraction,
            )
        regions.append(sampled)
    return regions


def log_samples(regions: list[Instances], *, num_classes: int) -> None:
    """Log the mean numbers of foreground and background regions of an image, as Detectron2 does.

    Args:
        regions: from :func:`sample_regions`.
        num_classes: label of the background.
    """
    classes = torch.cat([image.gt_classes for image in regions])
    foreground = int((classes < num_classes).sum())
    storage = get_event_storage()
    storage.put_scalar("roi_head/num_fg_samples", foreground / len(regions))
    storage.put_scalar("roi_head/num_bg_samples", (len(classes) - foreground) / len(regions))


def _sample_image(
    boxes: Boxes,
    targets: Instances,
    *,
    assigner: MaxIoUAssigner,
    num_classes: int,
    batch_size: int,
    positive_fraction: float,
) -> Instances:
    """Do what :func:`sample_regions` does for one image."""
    matches, labels = assigner(targets.gt_boxes, boxes)
    count = len(targets)
    matches = torch.cat([torch.arange(count, device=matches.device), matches])
    labels = torch.cat([labels.new_ones(count), labels])
    boxes = Boxes.cat([targets.gt_boxes, boxes]) if count else boxes

    positive = _choose(labels == 1, int(batch_size * positive_fraction))
    negative = _choose(labels == 0, batch_size - len(positive))
    chosen = torch.cat([positive, negative])

    regions = Instances(targets.image_size)
    regions.proposal_boxes = boxes[chosen]
    regions.is_gt = chosen < count
    regions.gt_index = torch.cat([matches[positive], torch.zeros_like(negative)])
    classes = torch.full_like(chosen, num_classes)
    classes[: len(positive)] = targets.gt_classes[matches[positive]]
    regions.gt_classes = classes
    gt_boxes = regions.proposal_boxes.tensor.clone()
    gt_boxes[: len(positive)] = targets.gt_boxes.tensor[matches[positive]]
    regions.gt_boxes = Boxes(gt_boxes)
    return regions


def select_foreground(regions: Instances, targets: Instances, *, num_classes: int) -> Instances:
    """The foreground among the regions of an image, with the ``gt_masks`` of their ground truths.

    Args:
        regions: from :func:`sample_regions`.
        targets: the ground truths; without objects they need not have masks.
        num_classes: label of the background.
    """
    foreground = regions[regions.gt_classes < num_classes]
    if len(foreground):
        foreground.gt_masks = targets.gt_masks[foreground.gt_index]
    return foreground


def _choose(mask: Tensor, count: int) -> Tensor:
    """Indices of at most ``count`` true elements."""
    indices = mask.nonzero()[:, 0]
    if len(indices) <= count:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]
