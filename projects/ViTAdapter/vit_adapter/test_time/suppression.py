"""NMS or soft-NMS, as the config chooses, over the candidates of one or more views."""

from dataclasses import dataclass
from typing import Literal

from detectron2.layers import batched_nms
from detectron2.structures import Instances

from vit_adapter.detection import soft_nms
from vit_adapter.detection.soft_nms import check_soft_nms

__all__ = ["Suppression"]


@dataclass(frozen=True, kw_only=True)
class Suppression:
    """Keeps the best of overlapping boxes of a class.

    Args:
        method: "hard" is NMS, as detectors do it; "linear" and "gaussian" are soft-NMS.
        iou_threshold: for "hard" and "linear"; None for the model's own.
        sigma, min_score: see :func:`vit_adapter.detection.soft_nms`.

    Raises:
        ValueError: the method is unknown, or a number is out of range.
    """

    method: Literal["hard", "linear", "gaussian"] = "hard"
    iou_threshold: float | None = None
    sigma: float = 0.5
    min_score: float = 1e-3

    def __post_init__(self) -> None:
        if self.method not in ("hard", "linear", "gaussian"):
            raise ValueError(f"method must be hard, linear or gaussian, got {self.method!r}")
        soft = "linear" if self.method == "hard" else self.method
        threshold = 0.0 if self.iou_threshold is None else self.iou_threshold
        check_soft_nms(
            method=soft, iou_threshold=threshold, sigma=self.sigma, min_score=self.min_score
        )

    @property
    def is_own(self) -> bool:
        """Whether this is NMS as every detector does it by itself."""
        return self.method == "hard" and self.iou_threshold is None

    def __call__(self, found: Instances, *, own_threshold: float | None) -> Instances:
        """Return the instances that are kept, best first; soft-NMS lowers their scores.

        Args:
            found: with ``pred_boxes``, ``scores`` and ``pred_classes``.
            own_threshold: used if ``iou_threshold`` is None. If both are None, "hard" keeps all.
        """
        threshold = own_threshold if self.iou_threshold is None else self.iou_threshold
        boxes, scores, classes = found.pred_boxes.tensor, found.scores, found.pred_classes
        if self.method == "hard" and threshold is None:
            return found[scores.argsort(descending=True, stable=True)]
        if self.method == "hard":
            return found[batched_nms(boxes, scores.float(), classes, threshold)]
        own = {"iou_threshold": threshold} if self.method == "linear" else {"sigma": self.sigma}
        index, lowered = soft_nms(
            boxes, scores, classes, method=self.method, min_score=self.min_score, **own
        )
        kept = found[index]
        kept.scores = lowered
        return kept
