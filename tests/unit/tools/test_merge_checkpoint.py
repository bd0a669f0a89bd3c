"""The tool that merges LoRA: what it writes and refuses."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from omegaconf import DictConfig
from tool_files import load_tool
from torch import Tensor, nn

import vit_adapter
from vit_adapter import LazyPredictor
from vit_adapter.backbone.lora import belongs_to_lora
from vit_adapter.checkpoint import load_checkpoint_file, load_state_dict_file
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.config.loading import load_config
from vit_adapter.config.weights import base_weights, load_trunk

TOOL = Path(vit_adapter.__file__).parents[1] / "tools" / "merge_checkpoint.py"
CONFIG = "quick_start/mask_rcnn_vit_adapter_shapes"
VIT = "model.backbone.bottom_up.vit"
TINY = [
    *("train.device=cpu", "model.backbone.out_channels=32", f"{VIT}.embed_dim=48"),
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
]
LORA = f"{VIT}.lora_rank=3"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("merge_checkpoint")


@pytest.fixture
def merge(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Callable[..., int]:
    """The tool's main function; ``caplog`` gets the messages."""
    monkeypatch.setattr("vit_adapter.utils.command_line.setup_logger", lambda name: None)
    monkeypatch.setattr(logging.getLogger("vit_adapter"), "propagate", True)
    return lambda *arguments: tool.main([str(argument) for argument in arguments])


def make_model(cfg: DictConfig) -> nn.Module:
    """A detector with random factors."""
    torch.manual_seed(0)
    model = LazyPredictor(cfg).model
    for name, parameter in model.named_parameters():
        if belongs_to_lora(name):
            nn.init.normal_(parameter, std=0.3)
    return model


def without_factors(model: nn.Module) -> dict[str, Tensor]:
    return {n: value for n, value in model.state_dict().items() if not belongs_to_lora(n)}


def predict(overrides: list[str], weights: Path) -> dict[str, Tensor]:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    instances = LazyPredictor(CONFIG, weights, overrides)(image)["instances"]
    return {"boxes": instances.pred_boxes.tensor, "scores": instances.scores}


@pytest.mark.parametrize(
    ("trained_only", "target"), [(False, "out.pth"), (True, "out.safetensors")]
)
def test_merged_checkpoint_needs_no_factors_and_predicts_the_same(
    merge: Callable[..., int],
    trained_only: bool,
    target: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    vit = tmp_path / "vit.pth"
    overrides = [*TINY, LORA, f"train.vit_checkpoint={vit}"]
    cfg = load_config(CONFIG, overrides)
    model = make_model(cfg)
    prefix = "backbone.bottom_up.vit."
    weights = without_factors(model)
    torch.save({n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}, vit)
    base = base_weights(cfg)
    Checkpointer(model, str(tmp_path), base=base, trained_only=trained_only).save("in")
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    config = tmp_path / "config.yaml"
    source, target = tmp_path / "in.pth", tmp_path / target
    assert merge(source, target, "--config-file", config) == 0
    assert "LoRA merged into 8 layers" in capsys.readouterr().out
    assert set(load_state_dict_file(target)) == set(weights)
    expected, found = predict(overrides, source), predict(TINY, target)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    load_trunk(cfg, model)  # the base alone predicts otherwise
    torch.save({"model": weights}, source)
    assert (predict(TINY, source)["scores"] - expected["scores"]).abs().max() > 1e-3


@pytest.mark.parametrize("use_average", [False, True])
def test_the_config_says_whether_the_average_is_taken(
    merge: Callable[..., int],
    use_average: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, average = (make_model(load_config(CONFIG, TINY)) for _ in range(2))
    for parameter in average.parameters():
        nn.init.constant_(parameter, 0.5)
    Checkpointer(model, str(tmp_path), trainer=average, average=average).save("in")
    target = tmp_path / "out.pth"
    override = f"train.model_ema.use_ema_weights_for_eval_only={use_average}"
    with caplog.at_level(logging.INFO):
        assert merge(tmp_path / "in.pth", target, "--config-file", CONFIG, *TINY, override) == 0
    assert ("Taking the moving average" if use_average else "Taking the trained") in caplog.text
    expected = (average if use_average else model).state_dict()
    found = load_checkpoint_file(target)
    assert set(found) == {"model"}
    assert all(torch.equal(value, expected[name]) for name, value in found["model"].items())


def test_nothing_is_replaced_unless_forced(
    merge: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save({"model": make_model(load_config(CONFIG, TINY)).state_dict()}, source)
    target.write_text("kept")
    arguments = [source, target, "--config-file", CONFIG, *TINY]
    assert merge(*arguments) == 2 and target.read_text() == "kept"
    assert "replace it with --force" in caplog.text
    assert merge(*arguments, "--force") == 0
    assert load_state_dict_file(target)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.txt", "OUT must end in .pth or .safetensors"),
        ("absent/out.pth", "absent of OUT does not exist"),
        ("in.pth", "IN and OUT are the same file"),
    ],
)
def test_outputs_that_cannot_be_written(
    merge: Callable[..., int],
    output: str,
    message: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "in.pth").touch()
    arguments = [tmp_path / "in.pth", tmp_path / output, "--force", "--config-file", CONFIG]
    assert merge(*arguments) == 2
    assert message in caplog.text
