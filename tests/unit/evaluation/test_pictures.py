"""Pictures of predictions: which images, what they show, and what drawing must not do."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from PIL import Image

from vit_adapter.data import class_names, register_shapes
from vit_adapter.evaluation import pictures
from vit_adapter.evaluation.pictures import PredictionPictures

SIZE = 64
NUM_IMAGES = 7
KINDS = {
    "instances": "shapes_val",
    "sem_seg": "shapes_val_sem_seg",
    "panoptic_seg": "shapes_val_panoptic",
}


@pytest.fixture(scope="module", autouse=True)
def _shapes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    root = tmp_path_factory.mktemp("data")
    register_shapes(root, num_train=1, num_val=NUM_IMAGES, image_size=SIZE, seed=1)
    yield
    register_shapes()


def predict(kind: str) -> dict:
    """A prediction of one large object, or of one class everywhere."""
    size = (SIZE, SIZE)
    whole = torch.ones(1, *size, dtype=torch.bool)
    if kind == "sem_seg":
        scores = torch.zeros(len(class_names(KINDS[kind], kind="stuff")), *size)
        scores[1] = 1
        return {"sem_seg": scores}
    if kind == "panoptic_seg":
        return {kind: (whole[0].int(), [{"id": 1, "isthing": True, "category_id": 0}])}
    instances = Instances(size, pred_masks=whole, pred_classes=torch.tensor([0]))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, size[1], size[0]]]))
    instances.scores = torch.tensor([0.9])
    return {"instances": instances}


def evaluate(kind: str, folder: Path, *, number: int = 2) -> list[dict]:
    """Run through the data set with two images in a batch; return the records."""
    records = DatasetCatalog.get(KINDS[kind])
    batches = [records[i : i + 2] for i in range(0, len(records), 2)]
    evaluator = PredictionPictures(KINDS[kind], folder, number=number, num_batches=len(batches))
    both = DatasetEvaluators([evaluator])  # as in an evaluation
    both.reset()
    for batch in batches:
        both.process(batch, [predict(kind) for _ in batch])
    assert both.evaluate() == {}
    return records


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_beside_the_prediction(kind: str, tmp_path: Path) -> None:
    with EventStorage(49) as storage:
        records = evaluate(kind, tmp_path)
    stems = [Path(record["file_name"]).stem for record in records]
    # Of four batches the second and the last.
    assert names(tmp_path) == [f"0000049/0_{stems[2]}.jpg", f"0000049/1_{stems[6]}.jpg"]
    shown = {name: (image, iteration) for name, image, iteration in storage._vis_data}
    assert list(shown) == [f"predictions/0_{stems[2]}", f"predictions/1_{stems[6]}"]
    image, iteration = shown[f"predictions/0_{stems[2]}"]
    assert iteration == 49 and image.dtype == np.uint8 and image.shape == (3, 640, 1288)
    plain = Image.open(records[2]["file_name"]).convert("RGB").resize((640, 640))
    labels, prediction = image[:, :, :640], image[:, :, 648:]
    background = np.abs(np.moveaxis(np.asarray(plain), -1, 0).astype(int) - labels).max(axis=0) < 30
    assert not np.array_equal(labels, prediction)
    if kind == "instances":  # the labels leave the background as it is, the prediction does not
        assert background.mean() > 0.4
    file = np.asarray(Image.open(tmp_path / f"0000049/0_{stems[2]}.jpg")).astype(int)
    assert np.abs(np.moveaxis(file, -1, 0) - image).mean() < 5  # JPEG


@pytest.mark.parametrize(
    ("kind", "drop"),
    [
        ("instances", "annotations"),
        ("sem_seg", "sem_seg_file_name"),
        ("panoptic_seg", "pan_seg_file_name"),
    ],
)
def test_data_without_labels(
    kind: str, drop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        {key: value for key, value in record.items() if key != drop}
        for record in DatasetCatalog.get(KINDS[kind])
    ]
    monkeypatch.setattr(pictures.DatasetCatalog, "get", lambda name: records)
    evaluate(kind, tmp_path, number=1)
    (name,) = names(tmp_path)
    assert name.startswith("eval_only/")
    assert Image.open(tmp_path / name).size == (640, 640)


def test_number_of_pictures(tmp_path: Path) -> None:
    evaluate("sem_seg", tmp_path / "many", number=100)
    assert len(names(tmp_path / "many")) == 4  # one of each batch
    evaluate("sem_seg", tmp_path / "none", number=0)
    assert not (tmp_path / "none").exists()


def test_old_pictures_are_removed(tmp_path: Path) -> None:
    for iteration in range(7):
        with EventStorage(1000 * iteration):
            evaluate("sem_seg", tmp_path, number=1)
    evaluate("sem_seg", tmp_path, number=1)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["0002000", "0003000", "0004000", "0005000", "0006000", "eval_only"]


def test_other_processes_draw_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    evaluate("sem_seg", tmp_path)
    assert names(tmp_path) == []


def test_drawing_draws_nothing_from_the_generator_of_the_training(tmp_path: Path) -> None:
    state = np.random.get_state()[1].copy()
    evaluate("instances", tmp_path)
    assert names(tmp_path)
    assert np.array_equal(np.random.get_state()[1], state)


def test_an_error_ends_only_the_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(pictures, "draw_prediction", fail)
    evaluate("sem_seg", tmp_path)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "cannot be drawn" in record.message and "no font" in record.message
