"""AP of resampled images, against pycocotools on a data set that holds copies of them."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from random_detections import make_data

from vit_adapter.comparison.average_precision import average_precision, find_matches


def repeat(truth: dict, found: list, weights: np.ndarray) -> tuple[dict, list]:
    """Copies of the images, each under a new id."""
    new = {"images": [], "annotations": [], "categories": truth["categories"]}
    predictions = []
    for image, count in zip(truth["images"], weights, strict=True):
        for _ in range(count):
            identifier = len(new["images"]) + 1
            new["images"].append(image | {"id": identifier})
            for entry in truth["annotations"]:
                if entry["image_id"] == image["id"]:
                    number = len(new["annotations"]) + 1
                    new["annotations"].append(entry | {"image_id": identifier, "id": number})
            predictions += [
                entry | {"image_id": identifier}
                for entry in found
                if entry["image_id"] == image["id"]
            ]
    return new, predictions


def by_pycocotools(truth: dict, found: list) -> np.ndarray:
    """AP (thresholds, classes, areas); NaN instead of -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        labelled = COCO()
        labelled.dataset = truth
        labelled.createIndex()
        evaluation = COCOeval(labelled, labelled.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # (T, 101, K, A)
    return np.where(precision < 0, np.nan, precision).mean(1)


@pytest.mark.parametrize("seed", range(3))
def test_equals_an_evaluation_of_repeated_images(seed):
    truth, found = make_data(seed)
    weights = np.random.default_rng(seed).multinomial(6, [1 / 6] * 6, size=5)
    weights = np.concatenate([np.ones((1, 6), int), weights])
    images, matches = find_matches(truth, found, "bbox")
    assert images == [1, 2, 3, 4, 5, 6]
    computed = np.stack(
        [np.stack([average_precision(m, weights) for m in row], -1) for row in matches], -2
    )
    for row, precision in zip(weights, computed, strict=True):
        expected = by_pycocotools(*repeat(truth, found, row))
        assert 0 < np.nanmean(expected) < 1 and np.isnan(expected).any()
        np.testing.assert_allclose(precision, expected, atol=1e-12)


def test_blocks_of_resamples_are_joined(monkeypatch):
    truth, found = make_data(0)
    weights = np.random.default_rng(0).multinomial(6, [1 / 6] * 6, size=7)
    _, matches = find_matches(truth, found, "bbox")
    whole = average_precision(matches[0][0], weights)
    monkeypatch.setattr("vit_adapter.comparison.average_precision._MAX_BLOCK", 1)
    np.testing.assert_array_equal(average_precision(matches[0][0], weights), whole)


def test_without_predictions():
    truth, _ = make_data(0)
    _, matches = find_matches(truth, [], "bbox")
    precision = average_precision(matches[0][0], np.ones((2, 6), int))
    assert (precision == 0).all() and precision.shape == (2, 10)
