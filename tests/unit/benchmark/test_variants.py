"""Variants change how a model runs, and nothing else."""

import os

import pytest
import torch
from detectron2.modeling import SemanticSegmentor
from torch import Tensor, nn

from vit_adapter.benchmark.backbone import FORCE_REFERENCE
from vit_adapter.benchmark.variants import Variant, check_variants, parse_variant
from vit_adapter.config.errors import UsageError
from vit_adapter.test_time import graphs

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Model(nn.Module):
    """A backbone between two functions."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Tensor:
        return self.backbone(rows)


def test_precision_is_that_of_autocast() -> None:
    model, rows = Model(), torch.randn(2, 4)
    assert Variant("float32").wrap(model, lambda: model(rows))().dtype == torch.float32
    assert Variant("bf16").wrap(model, lambda: model(rows))().dtype == torch.bfloat16


def test_weights_are_converted_in_a_copy() -> None:
    model, rows = Model(), torch.randn(2, 4)
    variant = Variant("bf16-weights")
    converted = variant.convert(model)
    assert {weight.dtype for weight in converted.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    call = variant.wrap(converted, lambda: (converted(rows.bfloat16()), model(rows)))
    assert [output.dtype for output in call()] == [torch.bfloat16, torch.float32]  # no autocast
    assert Variant("bf16").convert(model) is model


def test_plain_operator_only_during_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FORCE_REFERENCE, raising=False)
    read = lambda: os.environ.get(FORCE_REFERENCE)  # noqa: E731
    model = Model()
    assert Variant(plain_op=True).wrap(model, read)() == "1"
    assert Variant().wrap(model, read)() is None
    assert read() is None


class Backbone(nn.Linear):
    """Adds channels to images."""

    size_divisibility, padding_constraints = 0, {}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"res": super().forward(images.movedim(1, -1)).movedim(-1, 1)}


class Head(nn.Module):
    """Doubles a map."""

    def forward(self, features: dict[str, Tensor], targets: object = None) -> tuple[Tensor, dict]:
        return 2 * features["res"], {}


def make_segmentor() -> SemanticSegmentor:
    options = {"pixel_mean": [0.0], "pixel_std": [1.0]}
    return SemanticSegmentor(backbone=Backbone(1, 2), sem_seg_head=Head(), **options)


@pytest.mark.parametrize("mode", ["compiled", "graph"])
def test_the_core_is_a_graph_as_in_evaluation(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(function):
        return lambda images: tuple(output + 1 for output in function(images))

    monkeypatch.setattr(graphs, "_COMPILE", {"compile": make, "cuda_graph": make})
    model = make_segmentor().eval()
    batch = [{"image": torch.randn(1, 6, 8)}]
    call = Variant(mode=mode).wrap(model, lambda: model(batch)[0]["sem_seg"])
    with torch.no_grad():
        expected = model(batch)[0]["sem_seg"]
        for _ in range(2):
            torch.testing.assert_close(call(), expected + 1)  # after the head
        torch.testing.assert_close(model(batch)[0]["sem_seg"], expected)
    assert not any("forward" in vars(module) for module in model.modules())


def test_in_training_only_the_backbone_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **options: forward)
    model = make_segmentor().train()
    replaced = lambda: [n for n, part in model.named_children() if "forward" in vars(part)]  # noqa: E731
    assert Variant(mode="compiled").wrap(model, replaced)() == ["backbone"]
    assert Variant(mode="compiled").wrap(model.eval(), replaced)() == ["backbone", "sem_seg_head"]


@pytest.mark.parametrize("training", [True, False])
def test_without_a_core_the_backbone_is_compiled_and_only_during_the_call(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def fake_compile(forward, **options):
        compiled.append(options)
        return lambda rows: forward(rows) + 1

    monkeypatch.setattr(torch, "compile", fake_compile)
    model, rows = Model().train(training), torch.randn(2, 4)
    call = Variant(mode="compiled").wrap(model, lambda: model(rows))
    expected = model(rows)
    torch.testing.assert_close(call(), expected + 1)
    torch.testing.assert_close(call(), expected + 1)
    torch.testing.assert_close(model(rows), expected)
    assert compiled == [{"fullgraph": True}]  # once; a graph break would be an error


@pytest.mark.parametrize(
    ("text", "variant"),
    [
        ("float32", Variant()),
        ("bf16-weights,graph", Variant("bf16-weights", "graph")),
        ("bf16,compiled", Variant("bf16", "compiled")),
        ("fp16,graph", Variant("fp16", "graph")),
    ],
)
def test_reads_variants(text: str, variant: Variant) -> None:
    assert parse_variant(text) == variant


UNKNOWN = ["", "int8", "float32-weights", "bf16,fast", "bf16,compiled,graph", "compiled"]


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown_variants(text: str) -> None:
    with pytest.raises(ValueError, match="expected float32, bf16, fp16"):
        parse_variant(text)


@pytest.mark.parametrize(
    ("variant", "device", "training", "message"),
    [
        ("fp16", CPU, False, "fp16"),
        ("fp16", CUDA, True, "fp16"),
        ("fp16-weights", CPU, False, "fp16"),
        ("bf16-weights", CUDA, True, "keeps its weights in float32"),
        ("float32,graph", CPU, False, "--device cuda"),
        ("float32,graph", CUDA, True, "without --train"),
    ],
)
def test_refuses_what_cannot_run(variant, device, training, message) -> None:
    variants = [Variant(), parse_variant(variant)]
    with pytest.raises(UsageError, match=message):
        check_variants(variants, device=device, training=training)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_captured_graph_computes_the_same(precision: str) -> None:
    model = Model().cuda().requires_grad_(False)
    rows = torch.randn(2, 4, device="cuda")
    call = Variant(precision, "graph").wrap(model, lambda: model(rows).clone())
    eager = Variant(precision).wrap(model, lambda: model(rows))
    for _ in range(2):
        rows.normal_()
        torch.testing.assert_close(call(), eager())
