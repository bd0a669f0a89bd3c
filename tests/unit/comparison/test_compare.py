"""Comparing two results: differences, intervals, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_detections import make_data

from vit_adapter.comparison import Result, compare, format_comparison, read_results
from vit_adapter.comparison.tables import describe_difference, to_json
from vit_adapter.evaluation.per_image import ImageCounts
from vit_adapter.evaluation.sem_seg import compute_metrics


def detections(name: str, *, seed: int = 0, kept: float = 1.0) -> Result:
    truth, found = make_data(0, images=30)
    draw = np.random.default_rng(seed)
    found = [entry | {"score": draw.random()} for entry in found if draw.random() < kept]
    return Result(Path(name), found, truth, 100, {})


def segmentation(name: str, accuracy: float, *, seed: int = 0, images: int = 20) -> Result:
    """Counts of images whose pixels are right with some probability."""
    draw = np.random.default_rng(seed)
    counts = np.zeros((images, 3, 3), int)
    for image in range(images):
        labels = np.random.default_rng(image).integers(0, 3, 300)
        guesses = np.where(draw.random(300) < accuracy, labels, draw.integers(0, 3, 300))
        for k in range(3):
            right = ((labels == k) & (guesses == k)).sum()
            counts[image, k] = right, (labels == k).sum(), (guesses == k).sum()
    names = [f"{image}.png" for image in range(images)]
    return Result(Path(name), None, None, 100, {"sem_seg": ImageCounts(names, list("abc"), counts)})


def test_two_equal_models_are_within_noise():
    (found,) = compare([detections("a", seed=1)], [detections("b", seed=2)], resamples=200)
    assert found.task == "bbox" and found.metrics["AP"].is_noise
    assert found.metrics["AP"].low < 0 < found.metrics["AP"].high
    assert "within noise" in describe_difference(found)
    assert list(found.metrics) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert list(found.classes) == ["class 0", "class 1", "class 2", "class 3"]


def test_a_worse_model_is_worse():
    (found,) = compare([detections("a")], [detections("b", kept=0.4)], resamples=200)
    assert found.metrics["AP"].high < 0
    text = describe_difference(found)
    assert "A is better by more than the choice of test images explains. One run" in text
    text = format_comparison(found)
    assert "class 1" in text and "class 3" not in text  # no object has the last class
    assert to_json(found)["classes"]["class 3"]["first"] is None
    json.dumps(to_json(found))


def test_semantic_segmentation():
    worse, better = segmentation("a", 0.5), segmentation("b", 0.7)
    (found,) = compare([worse], [better], resamples=200)
    assert found.metrics["mIoU"].low > 0 and set(found.classes) == {"a", "b", "c"}
    (same,) = compare([worse], [segmentation("c", 0.5, seed=5)], resamples=200)
    assert same.metrics["mIoU"].is_noise
    sums = worse.counts["sem_seg"].counts.sum(0)
    confusion = np.diag(sums[:, 0])  # the errors of each row and column in one cell
    errors = sums[:, 1:] - sums[:, :1]
    for k in range(3):
        confusion[(k + 1) % 3, k] += errors[k, 0]
    expected = sums[:, 0] / (sums[:, 1] + sums[:, 2] - sums[:, 0])
    assert found.metrics["mIoU"].first == pytest.approx(100 * expected.mean())
    assert compute_metrics(confusion)[2]["pACC"] == pytest.approx(found.metrics["pACC"].first)


def test_several_runs_of_each():
    worse = [segmentation(f"a{seed}", 0.5, seed=seed) for seed in range(2)]
    better = [segmentation(f"b{seed}", 0.7, seed=seed) for seed in range(3)]
    (found,) = compare(worse, better, resamples=50)
    assert found.verdict == "beyond images and runs"
    text = describe_difference(found)
    assert text.endswith(
        "B is better by more than the choice of test images and the spread of the runs explain."
    )
    single = [compare([run], [run], resamples=2)[0].metrics["mIoU"].first for run in worse]
    assert found.metrics["mIoU"].firsts == pytest.approx(tuple(single))
    assert f"| {np.mean(single):.1f} ± {np.std(single, ddof=1):.1f} |" in format_comparison(found)
    content = to_json(found)
    assert content["runs"] == [2, 3] and content["covers_runs"]
    assert len(content["metrics"]["mIoU"]["second_runs"]) == 3
    (same,) = compare(worse, [segmentation(f"c{s}", 0.5, seed=s) for s in (7, 8)], resamples=50)
    assert same.verdict == "noise" and "95 % interval (images, runs)" in format_comparison(same)


def test_a_run_that_is_given_twice_is_refused():
    one, other = segmentation("a", 0.5), segmentation("copy", 0.5)
    with pytest.raises(ValueError, match="a and copy have exactly the same results"):
        compare([one, other], [segmentation("b", 0.7)], resamples=2)
    first = detections("a", seed=1)
    with pytest.raises(ValueError, match="a and a have exactly the same results"):
        compare([first, first], [detections("b", seed=2)], resamples=2)


def test_panoptic_segmentation():
    def result(name, wrong):
        counts = np.tile(np.array([[1.6, 2, wrong, 1], [0.8, 1, 0, 0]]), (10, 1, 1))
        per_image = ImageCounts([str(i) for i in range(10)], ["thing", "stuff"], counts)
        return Result(Path(name), None, None, 100, {"panoptic_seg": per_image}, (0,))

    (found,) = compare([result("a", 1)], [result("b", 0)], resamples=50)
    assert found.metrics["PQ_th"].first == pytest.approx(100 * 1.6 / 3)
    assert found.metrics["PQ_th"].low > 0 and found.metrics["PQ_st"].is_noise
    assert found.classes["stuff"].first == pytest.approx(80)


def _without(result, key):
    return replace(result, truth=result.truth | {key: result.truth[key][:-1]})


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            detections("a"),
            segmentation("b", 0.5),
            "a has results for instances, b has",
        ),
        (detections("a"), _without(detections("b"), "images"), "30 and 29 images"),
        (detections("a"), _without(detections("b"), "annotations"), "objects, which are not the"),
        (detections("a"), replace(detections("b"), max_detections=10), "set max_dets_per_image"),
        (segmentation("a", 0.5), segmentation("b", 0.5, images=19), "20 and 19 images"),
    ],
)
def test_different_data_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        compare([first], [second], resamples=2)


def test_predictions_for_other_images_are_refused():
    first = detections("a")
    other = replace(first, predictions=[first.predictions[0] | {"image_id": 99}])
    with pytest.raises(ValueError, match="1 images that are not in the annotations, such as 99"):
        compare([first], [other], resamples=2)


def test_predictions_of_other_classes_are_refused():
    first = detections("a")
    indexes = [entry | {"category_id": entry["category_id"] - 1} for entry in first.predictions]
    with pytest.raises(ValueError, match="b has the category ids 0, which .* annotations, 1, 2, 3"):
        compare([first], [replace(first, source=Path("b"), predictions=indexes)], resamples=2)


def test_labels_that_differ_are_refused():
    first, second = segmentation("a", 0.5), segmentation("b", 0.5)
    second.counts["sem_seg"].counts[4, 0, 1] += 1
    with pytest.raises(ValueError, match="the labels of 4.png differ"):
        compare([first], [second], resamples=2)


def test_files_of_predictions(tmp_path):
    truth, found = make_data(0)
    annotations, predictions = tmp_path / "val.json", tmp_path / "a.json"
    images = [image | {"file_name": f"{image['id']}.png"} for image in truth["images"]]
    annotations.write_text(json.dumps(truth | {"images": images}))
    predictions.write_text(json.dumps(found))
    result = read_results(predictions, annotations)
    assert compare([result], [result], resamples=5)[0].metrics["AP"].change == 0
    with pytest.raises(ValueError, match="--annotations FILE"):
        read_results(predictions)
    predictions.write_text('{"annotations": []}')
    with pytest.raises(ValueError, match="a.json is not in COCO's format of results"):
        read_results(predictions, annotations)
    with pytest.raises(ValueError, match="has none of the results.*--eval-only"):
        read_results(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        read_results(tmp_path / "absent")
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "coco_instances_results.json").write_text("[]")
    with pytest.raises(ValueError, match="has no config.yaml"):
        read_results(tmp_path)
