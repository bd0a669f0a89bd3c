"""Training targets of Mask2Former: a class and a binary mask for each region of an image.

A region is a class (semantic segmentation), an object (instance) or either (panoptic); to the model
these are the same.

Shapes: T targets of one image, H/W sides of the padded batch in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from vit_adapter.layers import GridSize

IGNORE_VALUE = 255
"""Label of pixels that belong to no region."""


class MaskTargets(NamedTuple):
    """The regions of one image.

    Attributes:
        labels: int64 (T,), classes from 0.
        masks: bool (T, H, W).
    """

    labels: Tensor
    masks: Tensor


def prepare_targets(
    batched_inputs: Sequence[Mapping[str, Any]],
    *,
    num_classes: int,
    padded_size: GridSize,
    device: torch.device,
) -> list[MaskTargets]:
    """Make the targets of a batch from the output of Detectron2's mappers.

    ``"instances"`` (with ``gt_classes``, and ``gt_masks`` as :class:`BitMasks` or a tensor) are
    used as they are; panoptic mappers put things and stuff there. Without them, each class in
    ``"sem_seg"`` (H, W) except the label 255 is a region. An image without regions has no targets.
    The padding of the batch belongs to no mask.

    Args:
        batched_inputs: one mapping per image, with ``"image"`` (channels, H, W).
        num_classes: number of classes of the model; labels must be smaller.
        padded_size: (height, width) of the batch.
        device: device of the targets.

    Raises:
        ValueError: an image has no labels, labels of another size, labels outside the classes, or
            polygons instead of masks; the message names the file if the input does.
    """
    targets = []
    for inputs in batched_inputs:
        size = tuple(inputs["image"].shape[-2:])
        try:
            if "instances" in inputs:
                labels, masks = _from_instances(inputs["instances"], num_classes, device)
            elif "sem_seg" in inputs:
                labels, masks = _from_sem_seg(inputs["sem_seg"], num_classes, device)
            else:
                raise ValueError(
                    f'training needs "sem_seg" or "instances", got only {sorted(inputs)}'
                )
            if tuple(masks.shape[-2:]) != size:
                raise ValueError(
                    f"the labels are {masks.shape[-2]} x {masks.shape[-1]} (height x width), "
                    f"but the image is {size[0]} x {size[1]}"
                )
        except ValueError as error:
            raise ValueError(f"{inputs.get('file_name', 'an image')}: {error}") from error
        bottom, right = padded_size[0] - size[0], padded_size[1] - size[1]
        targets.append(MaskTargets(labels, F.pad(masks, (0, right, 0, bottom))))
    return targets


def _from_sem_seg(sem_seg: Tensor, num_classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Labels (T,) and masks (T, H, W) of the classes in a label map (H, W)."""
    if sem_seg.dim() != 2:
        raise ValueError(f'"sem_seg" must be (H, W), got shape {tuple(sem_seg.shape)}')
    # Counted on the CPU, where mappers make the map, so as not to wait for the device.
    present = _values(sem_seg)
    present = present[present != IGNORE_VALUE]
    _check_labels(present, num_classes, f'"sem_seg" holds labels (other than {IGNORE_VALUE})')
    labels = present.to(device)
    return labels, sem_seg.to(device)[None] == labels[:, None, None].to(sem_seg.dtype)


def _from_instances(
    instances: Instances, num_classes: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Labels (T,) and masks (T, H, W) of objects, or of panoptic segments."""
    masks = instances.gt_masks if instances.has("gt_masks") else None
    masks = masks.tensor if isinstance(masks, BitMasks) else masks
    if masks is None and instances.has("gt_classes") and not len(instances.gt_classes):
        # Without annotations, Detectron2's mappers give an image boxes and classes but no masks.
        masks = torch.zeros(0, *instances.image_size, dtype=torch.bool)
    if not isinstance(masks, Tensor) or masks.dim() != 3:
        raise ValueError(
            'the "instances" must have gt_masks as BitMasks or a tensor (T, H, W), got '
            f"{type(masks).__name__}; set the mapper's instance_mask_format to 'bitmask'"
        )
    labels = instances.gt_classes
    if labels.shape != masks.shape[:1]:
        raise ValueError(f"{len(masks)} gt_masks do not fit gt_classes {tuple(labels.shape)}")
    _check_labels(labels, num_classes, 'gt_classes of the "instances"')
    return labels.long().to(device), masks.bool().to(device)


def _values(sem_seg: Tensor) -> Tensor:
    """Distinct values of a label map, sorted."""
    flat = sem_seg.flatten().long()
    if flat.numel() and flat.min() >= 0:
        return torch.bincount(flat).nonzero()[:, 0]  # many times faster than sorting
    return flat.unique()


def _check_labels(labels: Tensor, num_classes: int, what: str) -> None:
    outside = labels[(labels < 0) | (labels >= num_classes)].unique().tolist()
    if outside:
        raise ValueError(
            f"{what} must be from 0 to {num_classes - 1} for {num_classes} classes, got {outside}"
        )
