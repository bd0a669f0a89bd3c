"""The compiled backbone, with a backend that generates no code."""

import copy
from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from vit_adapter import PlainViT, ViTAdapter
from vit_adapter.config.errors import UsageError
from vit_adapter.engine.compilation import compile_backbone


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        vit = PlainViT(embed_dim=32, depth=2, num_heads=2, img_size=64)
        self.backbone = ViTAdapter(
            vit, interaction_indexes=[(0, 0), (1, 1)], conv_inplane=4, deform_num_heads=2
        )

    def forward(self, images: Tensor) -> Tensor:
        return sum(features.square().mean() for features in self.backbone(images).values())


def make_config(*, enabled: bool = True, **params: object) -> DictConfig:
    return OmegaConf.create({"train": {"compile": {"enabled": enabled, "params": params}}})


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The graphs that were compiled; a backend that runs them as they are collects them."""
    torch._dynamo.reset()
    found: list[torch.fx.GraphModule] = []
    compiler: Callable = torch.compile

    def collect(graph: torch.fx.GraphModule, _: list) -> Callable:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda *a, **k: compiler(*a, **k, backend=collect))
    return found


def test_compiled_backbone_trains_and_evaluates_as_before(graphs: list) -> None:
    torch.manual_seed(0)
    plain = Detector().train()
    compiled = copy.deepcopy(plain)
    compile_backbone(make_config(mode=None, dynamic=None), compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    copy.deepcopy(compiled)  # as moving averages of the weights do
    before = len(graphs)
    for images in (torch.randn(2, 3, 64, 96), torch.randn(1, 3, 96, 64)):
        losses = [model(images) for model in (plain, compiled)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
        for loss in losses:
            loss.backward()
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert len(graphs) > before
    with torch.no_grad():
        losses = [model.eval()(images).item() for model in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("train", [{}, {"compile": {"enabled": False, "params": {}}}])
def test_off_by_default(train: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda *_: pytest.fail("compiled"))
    compile_backbone(OmegaConf.create({"train": train}), nn.Linear(1, 1))


def test_model_without_a_backbone() -> None:
    with pytest.raises(UsageError, match="compiles the backbone, but Linear has no module named"):
        compile_backbone(make_config(), nn.Linear(1, 1))


def test_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    message = r"on cpu .*RuntimeError: No working C\+\+ compiler found\. It needs a C\+\+ compiler"
    with pytest.raises(UsageError, match=message):
        compile_backbone(make_config(), Detector())


def test_arguments_that_torch_refuses() -> None:
    with pytest.raises(UsageError, match="fastest.*correct train.compile.params"):
        compile_backbone(make_config(mode="fastest"), Detector())
