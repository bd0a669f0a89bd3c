"""Region proposals as the original trains them."""

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor

from vit_adapter.detection.boxes import in_float32
from vit_adapter.layers.image_random import random_numbers_of
from vit_adapter.layers.loss_count import loss_divisor

__all__ = ["InsideAnchorsRPN"]


class InsideAnchorsRPN(RPN):
    """Detectron2's RPN, trained like the original's.

    - Only the anchors inside an image are assigned and sampled. Detectron2 assigns all anchors and
      ignores those outside afterwards, so a ground truth may be left without its best one.
    - Both losses are divided by the number of sampled anchors; an image counts at least one
      positive and one negative. Detectron2 divides by the number that it would like to sample.

    Args:
        size_divisibility: what the sides of images are padded to multiples of.
        anchor_matcher: a :class:`MaxIoUAssigner`.
        anchor_boundary_thresh: how far an anchor may reach out of the image, in pixels. If it is
            negative, an anchor is inside if its centre is in the padded image.
        **kwargs: of Detectron2's ``RPN``.
    """

    def __init__(self, *, size_divisibility: int = 32, **kwargs) -> None:
        super().__init__(**kwargs)
        self.size_divisibility = size_divisibility

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Assign and sample the anchors of each image.

        Args:
            anchors: those of each level; A in total.
            gt_instances: ground truths, with ``gt_boxes``.

        Returns:
            For each image, labels (A,) (1 object, 0 background, -1 ignored), and boxes (A, 4), for
            objects that of their ground truth.
        """
        all_anchors = Boxes.cat(anchors)
        all_labels, all_boxes = [], []
        for image, targets in enumerate(gt_instances):
            inside = self._find_inside(all_anchors, targets.image_size)
            matches, found = self.anchor_matcher(targets.gt_boxes, all_anchors[inside])
            labels = found.new_full((len(all_anchors),), -1)
            labels[inside] = found
            boxes = all_anchors.tensor.clone()
            if len(targets):
                boxes[inside] = targets.gt_boxes.tensor[matches]
            with random_numbers_of(image, labels.device):
                all_labels.append(self._subsample_labels(labels))
            all_boxes.append(boxes)
        return all_labels, all_boxes

    def _find_inside(self, anchors: Boxes, image_size: tuple[int, int]) -> Tensor:
        if self.anchor_boundary_thresh >= 0:
            return anchors.inside_box(image_size, self.anchor_boundary_thresh)
        step = self.size_divisibility
        height, width = (-(-side // step) * step for side in image_size)
        # Centres are whole numbers, up to rounding.
        x, y = anchors.get_centers().unbind(dim=1)
        return (x < width - 0.5) & (y < height - 0.5)

    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Choose the best boxes as Detectron2 does, in float32 or wider."""
        logits = [in_float32(level) for level in pred_objectness_logits]
        return super().predict_proposals(anchors, logits, pred_anchor_deltas, image_sizes)

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """The losses of Detectron2's ``RPN.losses``, with the original's divisor."""
        losses = super().losses(
            anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes
        )
        counts = [(labels == value).sum() for labels in gt_labels for value in (0, 1)]
        sampled = loss_divisor(torch.stack(counts).clamp(min=1).sum())
        scale = self.batch_size_per_image * len(gt_labels) / sampled
        return {name: loss * scale for name, loss in losses.items()}
