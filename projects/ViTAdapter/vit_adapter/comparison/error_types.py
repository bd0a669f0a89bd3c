"""TIDE's types of errors (arXiv 2008.08115), computed by the optional package hotcoco."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.utils.logger import log_first_n

__all__ = ["error_types"]

_WITHOUT_HOTCOCO = "Types of errors are left out; they need hotcoco: pip install hotcoco."


def error_types(
    truth: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    task: str,
    *,
    max_detections: int = 100,
) -> dict[str, float]:
    """Compute how much AP50 would gain if the errors of one type were corrected, in percent.

    Args:
        truth, predictions, task, max_detections: as for
            :func:`vit_adapter.comparison.average_precision.find_matches`.

    Returns:
        The gains by type: wrong class, box or both, duplicates, background, missed objects, all
        false positives, all false negatives. Empty if hotcoco is not installed or there are no
        predictions.
    """
    try:
        import hotcoco
    except ImportError:
        log_first_n(logging.INFO, _WITHOUT_HOTCOCO, name=__name__)
        return {}
    if not predictions:
        return {}
    labelled = hotcoco.COCO(dict(truth))
    if task == "segm":
        predictions = [{k: v for k, v in entry.items() if k != "bbox"} for entry in predictions]
    evaluation = hotcoco.COCOeval(labelled, labelled.load_res(list(predictions)), task)
    evaluation.params.max_dets = [1, 10, max_detections]
    evaluation.evaluate()
    return {name: 100 * gain for name, gain in evaluation.tide_errors()["delta_ap"].items()}
