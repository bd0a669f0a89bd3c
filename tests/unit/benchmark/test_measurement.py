"""Records of whole models."""

import logging

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.benchmark import measurement
from vit_adapter.benchmark.measurement import measure_together
from vit_adapter.benchmark.models import Subject, build_subject
from vit_adapter.benchmark.variants import Variant

SIZE = (4, 8)
PIXELS = 3 * 4 * 8


class Model(nn.Module):
    """Multiplies each image with a matrix and notes when it runs."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__()
        self.backbone = nn.Linear(PIXELS, 10)
        self.offset = nn.Parameter(torch.zeros(10))
        self.name, self.log = name, log

    def forward(self, batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.log.append(self.name)
        images = torch.stack([inputs["image"] for inputs in batch]).flatten(1) / 255
        return {"loss": (self.backbone(images.to(self.offset.dtype)) + self.offset).square().sum()}


def measure(*models: Model, variants: list[Variant], **options: object) -> list[dict]:
    subjects = [Subject(model.name, model, num_channels=3, num_classes=3) for model in models]
    common = {"batch_size": 2, "size": SIZE, "repeats": 3, "training": False}
    return measure_together(subjects, variants, **{**common, **options})


@pytest.mark.parametrize("training", [False, True])
def test_the_profile_names_the_operations(training: bool) -> None:
    (record,) = measure(Model("a", []), variants=[Variant()], training=training, profile=True)
    names = list(record["operations_ms"])
    assert "aten::addmm" in names and len(names) <= 20
    assert not any(name.startswith("Optimizer.") for name in names)  # contains other operations
    assert ("aten::mm" in names) == training  # gradient of the matrix
    times = list(record["operations_ms"].values())
    assert times == sorted(times, reverse=True) and times[-1] > 0
    assert record["launches"] >= len(names)
    (plain,) = measure(Model("a", []), variants=[Variant()], training=training)
    assert not {"launches", "operations_ms"} & set(plain)


def test_a_failing_profiler_loses_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES\nmore")

    monkeypatch.setattr(measurement, "profile_operations", fail)
    (record,) = measure(Model("a", []), variants=[Variant()], profile=True)
    assert record["profile_error"] == "RuntimeError: CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"
    assert len(record["times_ms"]) == 3 and "launches" not in record


def test_models_and_variants_take_turns() -> None:
    log: list[str] = []
    models = [Model("a", log), Model("b", log)]
    records = measure(*models, variants=[Variant(), Variant("bf16")], repeats=3)
    assert [(r["config"], r["precision"]) for r in records] == [
        (name, precision) for name in "ab" for precision in ("float32", "bf16")
    ]
    turns = "".join(log).removeprefix("aaabbb")  # operations, and a run in each variant
    assert turns[: 3 * 4] == "aabb" * 3
    assert all(len(record["times_ms"]) == 3 for record in records)


def test_a_record_has_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "milliseconds", lambda call: float(next(times)))
    times = iter([20, 10, 40])
    model = Model("a", [])
    (record,) = measure(model, variants=[Variant()], repeats=3)
    assert record["parameters"] == PIXELS * 10 + 10 + 10
    assert record["flops"] == 2 * PIXELS * 10  # of one image
    assert record["times_ms"] == [20, 10, 40]
    assert record["latency_ms"] == pytest.approx({"p50": 20, "p90": 36, "p99": 39.6})
    assert record["images_per_second"] == 100  # two in 20 ms
    weights = 4 * record["parameters"]
    assert weights < record["memory_mib"] * 2**20 < weights + 100 * PIXELS
    assert set(record["components_ms"]) == {"input", "neck", "post-processing"}
    assert record["size"] == [4, 8] and record["batch_size"] == 2


def test_training_takes_steps() -> None:
    model = Model("a", [])
    before = model.backbone.weight.detach().clone()
    (record,) = measure(model, variants=[Variant()], training=True)
    assert not torch.equal(model.backbone.weight, before)
    assert model.training and model.backbone.weight.grad is None
    assert "components_ms" not in record
    # weights and two moments; and at least the gradients
    assert record["memory_mib"] * 2**20 > 4 * 4 * record["parameters"]


def test_plain_operator_is_measured_only_where_there_is_one() -> None:
    records = measure(Model("a", []), variants=[Variant(), Variant(plain_op=True)])
    assert [record["plain_op"] for record in records] == [False]


def test_converted_weights_are_those_of_a_copy() -> None:
    model = Model("a", [])
    wide, narrow = measure(model, variants=[Variant(), Variant("bf16-weights")])
    assert narrow["precision"] == "bf16-weights" and narrow["flops"] == wide["flops"]
    assert (wide["memory_mib"] - narrow["memory_mib"]) * 2**20 > wide["parameters"]
    assert set(narrow["components_ms"]) == {"input", "neck", "post-processing"}
    assert model.backbone.weight.dtype == torch.float32


def test_a_failing_variant_does_not_stop_the_others() -> None:
    class Failing(Model):
        def forward(self, batch):
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("no kernel\nfor this")
            return super().forward(batch)

    failing, working = measure(Failing("a", []), variants=[Variant("bf16"), Variant()])
    assert failing["error"] == "RuntimeError: no kernel"
    assert "times_ms" not in failing and len(working["times_ms"]) == 3


@pytest.mark.parametrize("training", [False, True])
def test_operations_that_cannot_be_counted_do_not_stop_the_variants(
    training: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Model):
        def forward(self, batch):
            if not torch.is_autocast_enabled("cpu"):
                raise torch.cuda.OutOfMemoryError("no memory\nfor this")
            return super().forward(batch)

    monkeypatch.setattr(logging.getLogger("vit_adapter"), "propagate", True)
    variants = [Variant(), Variant("bf16")]
    failing, working = measure(Failing("a", []), variants=variants, training=training)
    assert failing["error"] == "OutOfMemoryError: no memory"
    assert "error" not in working and len(working["times_ms"]) == 3
    assert failing["flops"] is working["flops"] is None
    assert "operations of a not counted: OutOfMemoryError: no memory\n" in caplog.text


def test_models_of_other_images_than_rgb() -> None:
    overrides = ["train.device=cpu", "model.input_channels=5"]
    overrides += [f"model.pixel_{key}={[1.0] * 5}" for key in ("mean", "std")]
    subject = build_subject("quick_start/mask_rcnn_vit_adapter_shapes", overrides=overrides)
    (record,) = measure_together(
        [subject], [Variant()], batch_size=1, size=(64, 96), repeats=1, training=False
    )
    assert "error" not in record and record["flops"] > 0
