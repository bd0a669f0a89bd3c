"""Classes and boxes of regions."""

import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import Tensor

from vit_adapter.detection.losses import giou_loss

__all__ = ["GIoUBoxPredictor", "choose_deltas"]


class GIoUBoxPredictor(FastRCNNOutputLayers):
    """Detectron2's output layers, with the original's GIoU loss on decoded boxes."""

    def box_reg_loss(
        self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor
    ) -> Tensor:
        """GIoU loss of the foreground, summed and divided by the number of all regions.

        Args:
            proposal_boxes: (R, 4), the regions.
            gt_boxes: (R, 4).
            pred_deltas: (R, K * 4), or (R, 4) for all classes.
            gt_classes: (R,), K for background.
        """
        foreground = (gt_classes >= 0) & (gt_classes < self.num_classes)
        deltas = choose_deltas(pred_deltas[foreground], gt_classes[foreground])
        boxes = self.box2box_transform.apply_deltas(deltas, proposal_boxes[foreground])
        return giou_loss(boxes, gt_boxes[foreground]).sum() / max(len(gt_classes), 1)


def choose_deltas(deltas: Tensor, classes: Tensor) -> Tensor:
    """Pick the deltas of one class for each region.

    Args:
        deltas: (R, K * 4), or (R, 4) for all classes.
        classes: (R,), from 0 to K - 1.

    Returns:
        (R, 4).
    """
    if deltas.shape[1] == 4:
        return deltas
    rows = deltas.shape[0]  # not len(), which a graph of torch.export would hold as a constant
    by_class = deltas.view(rows, deltas.shape[1] // 4, 4)
    return by_class[torch.arange(rows, device=deltas.device), classes]
