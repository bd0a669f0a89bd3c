"""Metrics, compared with a hand-computed confusion matrix and with Detectron2's evaluator."""

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2 import evaluation as detectron2_evaluation
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import Tensor

from vit_adapter.evaluation import SemSegEvaluator
from vit_adapter.evaluation.per_image import counts_file, read_counts
from vit_adapter.evaluation.sem_seg import metrics_of_sums

NAME = "sem_seg_of_a_test"
CLASSES = ["road", "sky", "tree", "car"]
# 255 is ignored; no pixel is labelled as a tree or predicted as a car.
LABELS = [[0, 0, 0, 1], [0, 1, 1, 255], [3, 3, 255, 255]]
PREDICTED = [[0, 0, 1, 1], [0, 1, 2, 3], [0, 1, 2, 0]]


def one_hot(predicted: list[list[int]]) -> Tensor:
    """Scores that are highest for the given classes."""
    classes = torch.tensor(predicted)
    return torch.nn.functional.one_hot(classes, len(CLASSES)).permute(2, 0, 1).float()


@pytest.fixture
def add_image(tmp_path: Path) -> Iterator:
    """A function that adds an image with the given labels to the data set."""
    records = []

    def add(labels: object) -> dict[str, str]:
        file = tmp_path / f"{len(records)}.png"
        Image.fromarray(np.array(labels, dtype=np.uint8)).save(file)
        records.append({"file_name": f"{len(records)}.jpg", "sem_seg_file_name": str(file)})
        return records[-1]

    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(stuff_classes=CLASSES, ignore_label=255)
    yield add
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_hand_computed(add_image, caplog: pytest.LogCaptureFixture) -> None:
    record = add_image(LABELS)
    evaluator = SemSegEvaluator(NAME)
    with caplog.at_level(logging.INFO):
        evaluator.process([record], [{"sem_seg": one_hot(PREDICTED)}])
        metrics = evaluator.evaluate()["sem_seg"]
    # 9 pixels count. road: 4 labelled, 4 predicted, 3 correct; sky: 3, 4, 2; tree: 0, 1, 0;
    # car: 2, 0, 0.
    iou = {"road": 3 / 5, "sky": 2 / 5, "tree": 0.0, "car": 0.0}
    accuracy = {"road": 3 / 4, "sky": 2 / 3, "tree": math.nan, "car": 0.0}
    expected = {
        "mIoU": (3 / 5 + 2 / 5) / 4,
        "fwIoU": (4 * 3 / 5 + 3 * 2 / 5) / 9,
        "mACC": (3 / 4 + 2 / 3) / 3,
        "pACC": 5 / 9,
        **{f"IoU-{name}": value for name, value in iou.items()},
        **{f"ACC-{name}": value for name, value in accuracy.items()},
    }
    percent = {name: 100 * value for name, value in expected.items()}
    assert metrics == pytest.approx(percent, nan_ok=True)
    assert {type(value) for value in metrics.values()} == {float}
    rows = [line.split() for line in caplog.text.splitlines()]
    assert "| road | 60.00 | 75.00 |".split() in rows
    assert "| tree | 0.00 | nan |".split() in rows


def test_confusion_matrix_is_written_and_shown(add_image, tmp_path: Path) -> None:
    record = add_image(LABELS)
    evaluator = SemSegEvaluator(NAME, str(tmp_path / "inference"))
    evaluator.process([record], [{"sem_seg": one_hot(PREDICTED)}])
    evaluator.evaluate()  # not during a training run
    stored = json.loads((tmp_path / "inference/confusion_matrix.json").read_text())
    assert stored["classes"] == CLASSES
    # road: 3 correct, 1 as sky; sky: 2 correct, 1 as tree; car: 1 as road, 1 as sky
    assert stored["pixels"] == [[3, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    with EventStorage(7) as storage:
        evaluator.evaluate()
    ((name, image, iteration),) = storage._vis_data
    assert (name, image.shape[0], image.dtype, iteration) == ("confusion_matrix", 3, np.uint8, 7)


def test_equals_detectron2_where_all_classes_are_labelled(add_image) -> None:
    rng = np.random.default_rng(0)
    records = [add_image(rng.choice([0, 1, 2, 3, 255], size=(9, 7))) for _ in range(3)]
    outputs = [{"sem_seg": torch.randn(4, 9, 7)} for _ in records]
    results = []
    for kind in (SemSegEvaluator, detectron2_evaluation.SemSegEvaluator):
        evaluator = kind(NAME)
        evaluator.reset()
        for record, output in zip(records, outputs, strict=True):
            evaluator.process([record], [output])
        results.append(evaluator.evaluate()["sem_seg"])
    ours, theirs = results
    assert ours == pytest.approx({name: theirs[name] for name in ours})


def test_ignored_image_adds_nothing(add_image) -> None:
    records = [add_image(LABELS), add_image(np.full((3, 4), 255))]
    outputs = [{"sem_seg": one_hot(PREDICTED)}, {"sem_seg": torch.randn(4, 3, 4)}]
    evaluator = SemSegEvaluator(NAME)
    evaluator.process(records[:1], outputs[:1])
    alone = evaluator.evaluate()
    evaluator.process(records[1:], outputs[1:])
    assert evaluator.evaluate()["sem_seg"] == pytest.approx(alone["sem_seg"], nan_ok=True)
    evaluator.reset()
    evaluator.process(records[1:], outputs[1:])
    assert all(math.isnan(value) for value in evaluator.evaluate()["sem_seg"].values())


@pytest.mark.parametrize("ignored", [2, 7])  # a class, and no class
def test_another_ignored_label_does_not_count(add_image, ignored: int) -> None:
    labels = np.array(LABELS)
    usual, other = add_image(labels), add_image(np.where(labels == 255, ignored, labels))
    evaluator = SemSegEvaluator(NAME)
    evaluator.process([usual], [{"sem_seg": one_hot(PREDICTED)}])
    expected = evaluator.evaluate()["sem_seg"]
    MetadataCatalog.remove(NAME)
    MetadataCatalog.get(NAME).set(stuff_classes=CLASSES, ignore_label=ignored)
    evaluator = SemSegEvaluator(NAME)
    evaluator.process([other], [{"sem_seg": one_hot(PREDICTED)}])
    assert evaluator.evaluate()["sem_seg"] == pytest.approx(expected, nan_ok=True)
    with pytest.raises(ValueError, match=f"the values 255 in 3 pixels.* and {ignored} for pixels"):
        evaluator.process([usual], [{"sem_seg": one_hot(PREDICTED)}])


def test_counts_of_all_processes_are_added(add_image, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [add_image(LABELS), add_image([[3, 2], [2, 0]])]
    outputs = [{"sem_seg": one_hot(PREDICTED)}, {"sem_seg": one_hot([[3, 2], [0, 0]])}]
    together = SemSegEvaluator(NAME, distributed=False)
    together.process(records, outputs)
    parts = [SemSegEvaluator(NAME) for _ in records]
    for part, record, output in zip(parts, records, outputs, strict=True):
        part.process([record], [output])
    gathered = [(part._counts, part._per_image) for part in parts]
    monkeypatch.setattr(comm, "all_gather", lambda counts: gathered)
    expected = together.evaluate()["sem_seg"]
    assert parts[0].evaluate()["sem_seg"] == pytest.approx(expected, nan_ok=True)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert parts[1].evaluate() is None
    assert together.evaluate() is not None


def test_counts_of_each_image_are_written(add_image, tmp_path) -> None:
    records = [add_image(LABELS), add_image([[3, 2], [2, 0]])]
    evaluator = SemSegEvaluator(NAME, str(tmp_path), distributed=False)
    evaluator.process(records[:1], [{"sem_seg": one_hot(PREDICTED)}])
    evaluator.process(records[1:], [{"sem_seg": one_hot([[3, 2], [0, 0]])}])
    expected = evaluator.evaluate()["sem_seg"]
    images, _, counts = read_counts(counts_file(tmp_path, "sem_seg"))
    assert images == sorted(Path(record["file_name"]).name for record in records)
    assert counts[:, :, 1].sum(1).max() <= np.size(LABELS)
    _, _, metrics = metrics_of_sums(counts.sum(0))
    assert 100 * metrics["mIoU"] == pytest.approx(expected["mIoU"])
    counts_file(tmp_path, "sem_seg").write_bytes(b"half")
    with pytest.raises(ValueError, match="per_image_sem_seg.npz is damaged"):
        read_counts(counts_file(tmp_path, "sem_seg"))


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ((3, 3, 4), LABELS, r"predicts 3 classes for 0.jpg, but the data set has 4"),
        ((4, 4, 3), LABELS, r"0.jpg has 3 x 4 pixels .*0.png have 4 x 3"),
        ((4, 2, 2), [[0, 7], [0, 9]], r"0.png has the values 7, 9 .*there are 4 classes"),
    ],
)
def test_files_that_do_not_fit_are_named(
    add_image, scores: tuple, labels: list, message: str
) -> None:
    record = add_image(labels)
    evaluator = SemSegEvaluator(NAME)
    with pytest.raises(ValueError, match=message):
        evaluator.process([record], [{"sem_seg": torch.zeros(scores)}])


def test_data_sets_without_semantic_labels_are_refused(add_image) -> None:
    with pytest.raises(ValueError, match="No data set is registered as 'nonsense'"):
        SemSegEvaluator("nonsense")
    del add_image(LABELS)["sem_seg_file_name"]
    with pytest.raises(ValueError, match="1 of 1 images .* such as .*0.jpg: they have no sem"):
        SemSegEvaluator(NAME)
