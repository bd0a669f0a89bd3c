"""The evaluation with a stand-in for data and evaluator."""

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluator
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.engine.ema import WeightAverage
from vit_adapter.engine.evaluation import evaluate, format_results, write_results

RESULTS = {
    "bbox": {"AP": 12.345, "AP50": 30.0, "APl": math.nan, "AP-cat": 1.0},
    "segm": {"AP": 10.0, "AP50": 25.5, "APl": math.nan, "AP-cat": 2.0},
}


class CountingEvaluator(DatasetEvaluator):
    def __init__(self, results: dict, dataset_name: str = "") -> None:
        self.results = OmegaConf.to_container(results) if results else {}

    def reset(self) -> None:
        self.count = 0

    def process(self, inputs: list, outputs: list) -> None:
        self.count += len(inputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {**self.results, "count": {"images": float(self.count)}} if self.results else {}


class Model(nn.Module):
    def forward(self, batch: list) -> list:
        assert not self.training
        return batch


def loader() -> list[list[int]]:
    return [[0], [1], [2]]


def make_config(output_dir: Path, results: dict) -> DictConfig:
    evaluator = L(CountingEvaluator)(results=results)
    return OmegaConf.create(
        {
            "dataloader": {"test": L(loader)(), "evaluator": evaluator},
            "train": {"output_dir": str(output_dir)},
        },
        flags={"allow_objects": True},
    )


def test_results_are_returned_shown_and_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model().train()
    with caplog.at_level(logging.INFO):
        results = evaluate(make_config(tmp_path / "new", RESULTS), model)
    assert model.training
    assert results["count"] == {"images": 3.0}
    stored = json.loads((tmp_path / "new/results.json").read_text())
    assert stored["bbox"] == {"AP": 12.345, "AP50": 30.0, "APl": None, "AP-cat": 1.0}
    assert "copypaste: Task: bbox" in caplog.text
    assert format_results(results) in caplog.text


def test_evaluator_without_metrics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert evaluate(make_config(tmp_path, {}), Model()) == {}
    assert "returned no metrics, as for a test set without annotations" in caplog.text
    assert json.loads((tmp_path / "results.json").read_text()) == {}


def test_config_without_an_evaluator(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, RESULTS)
    cfg.dataloader.evaluator = None
    assert evaluate(cfg, Model()) == {}
    assert not (tmp_path / "results.json").exists()


class MeanEvaluator(DatasetEvaluator):
    """The weight of a model that returns it."""

    def reset(self) -> None:
        self.outputs = []

    def process(self, inputs: list, outputs: list) -> None:
        self.outputs += outputs

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {"bbox": {"AP": sum(self.outputs) / len(self.outputs)}}


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, batch: list) -> list:
        return [self.weight.item() for _ in batch]


def test_weights_and_their_average_are_evaluated(tmp_path: Path) -> None:
    model = Constant()
    average = WeightAverage(model, 0.75)
    model.weight.data.fill_(8.0)
    average.update()
    cfg = make_config(tmp_path, {})
    cfg.dataloader.evaluator = L(MeanEvaluator)()
    results = evaluate(cfg, model, training=True, average=average)
    assert results == {"bbox": {"AP": 8.0}, "bbox_ema": {"AP": 2.0}}
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert model.weight.item() == 8.0
    assert format_results(results).splitlines()[2:] == [
        "|       box | 8.00 |",
        "| box (EMA) | 2.00 |",
    ]


def test_an_evaluation_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    calls = []

    def stop_at_second() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt

    model = Model()
    with pytest.raises(KeyboardInterrupt):
        evaluate(make_config(tmp_path, RESULTS), model, before_batch=stop_at_second)
    assert len(calls) == 2
    assert not (tmp_path / "results.json").exists()


def test_table() -> None:
    assert format_results(RESULTS).splitlines() == [
        "|      |    AP |   AP50 |   APl |",
        "|-----:|------:|-------:|------:|",
        "|  box | 12.35 |  30.00 |   nan |",
        "| mask | 10.00 |  25.50 |   nan |",
    ]
    panoptic = {"panoptic_seg": {"PQ": 50.0, "PQ-car": 1.0}}
    assert format_results(panoptic).splitlines()[2:] == ["| panoptic | 50.00 |"]


def test_results_of_training_are_kept(tmp_path: Path) -> None:
    def read(name: str) -> float:
        return json.loads((tmp_path / name).read_text())["bbox"]["AP"]

    for value in (1.0, 2.0):  # not the folder of a training run
        write_results({"bbox": {"AP": value}}, str(tmp_path), training=False)
        assert read("results.json") == value
    (tmp_path / "results.json").unlink()
    (tmp_path / "metrics.json").touch()
    for value in (1.0, 2.0):  # a training run without evaluations
        write_results({"bbox": {"AP": value}}, str(tmp_path), training=False)
        assert (read("results.json"), read("results_eval.json")) == (value, value)
    write_results({"bbox": {"AP": 3.0}}, str(tmp_path), training=True)
    for value in (4.0, 5.0):
        write_results({"bbox": {"AP": value}}, str(tmp_path), training=False)
        assert (read("results.json"), read("results_eval.json")) == (3.0, value)
    write_results({"bbox": {"AP": 6.0}}, str(tmp_path), training=True)
    assert read("results.json") == 6.0


def test_failed_write_keeps_the_earlier_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(RESULTS, str(tmp_path), training=True)
    before = (tmp_path / "results.json").read_text()

    def fail(content: object, stream: object, indent: int) -> None:
        stream.write("{")
        raise OSError("no space left")

    monkeypatch.setattr(json, "dump", fail)
    with pytest.raises(OSError, match="no space"):
        write_results({"bbox": {"AP": 1.0}}, str(tmp_path), training=True)
    assert (tmp_path / "results.json").read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_wrapped_model_is_unwrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, batch: list) -> list:
            raise AssertionError("the wrapper's forward waits for all processes")

    monkeypatch.setattr("vit_adapter.engine.parallel.DistributedDataParallel", Wrapper)
    assert evaluate(make_config(tmp_path, RESULTS), Wrapper(Model()))["count"]["images"] == 3
    assert torch.is_grad_enabled()


def test_pictures_are_added_to_the_evaluator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    class Pictures(DatasetEvaluator):
        def __init__(self, name: str, folder: Path, **options: object) -> None:
            asked.append((name, folder, options))
            self.images = 0

        def process(self, inputs: list, outputs: list) -> None:
            self.images += len(inputs)

        def evaluate(self) -> None:
            asked.append(self.images)

    monkeypatch.setattr("vit_adapter.engine.evaluation.PredictionPictures", Pictures)
    cfg = make_config(tmp_path, RESULTS)
    cfg.train.eval_pictures = 2
    plain = evaluate(cfg, Model())
    assert not asked and "dataset_name does not name" in caplog.text
    cfg.dataloader.evaluator.dataset_name = "shapes_val"
    assert evaluate(cfg, Model()) == plain
    options = {"number": 2, "num_batches": 3, "channels": None}
    assert asked == [("shapes_val", tmp_path / "inference/pictures", options), 3]
