"""Variants change how a model runs, and nothing else."""

import os

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.benchmark.backbone import FORCE_REFERENCE
from vit_adapter.benchmark.variants import Variant, list_variants
from vit_adapter.config.errors import UsageError

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


def test_plain_operator_only_during_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FORCE_REFERENCE, raising=False)
    read = lambda: os.environ.get(FORCE_REFERENCE)  # noqa: E731
    model = Model()
    assert Variant(plain_op=True).wrap(model, read)() == "1"
    assert Variant().wrap(model, read)() is None
    assert read() is None


def test_only_the_backbone_is_compiled_and_only_during_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = []

    def fake_compile(forward, **options):
        compiled.append(options)
        return lambda rows: forward(rows) + 1

    monkeypatch.setattr(torch, "compile", fake_compile)
    model, rows = Model(), torch.randn(2, 4)
    call = Variant(mode="compiled").wrap(model, lambda: model(rows))
    expected = model(rows)
    torch.testing.assert_close(call(), expected + 1)
    torch.testing.assert_close(call(), expected + 1)
    torch.testing.assert_close(model(rows), expected)
    assert compiled == [{"fullgraph": True}]  # once; a graph break would be an error


def test_combinations() -> None:
    both = ("float32", "bf16")
    options = {"device": CPU, "training": False}
    found = list_variants(both, ("eager", "compiled"), **options, plain_op=True)
    assert found == [
        Variant("float32"),
        Variant("float32", "compiled"),
        Variant("bf16"),
        Variant("bf16", "compiled"),
        Variant("float32", plain_op=True),
        Variant("bf16", plain_op=True),
    ]
    assert list_variants(both, ("eager",), **options, plain_op=False) == found[:3:2]


@pytest.mark.parametrize(
    ("precision", "mode", "device", "training", "message"),
    [
        ("fp16", "eager", CPU, False, "fp16"),
        ("fp16", "eager", CUDA, True, "fp16"),
        ("float32", "graph", CPU, False, "--device cuda"),
        ("float32", "graph", CUDA, True, "without --train"),
    ],
)
def test_refuses_what_cannot_run(precision, mode, device, training, message) -> None:
    with pytest.raises(UsageError, match=message):
        list_variants([precision], [mode], device=device, training=training, plain_op=False)


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
