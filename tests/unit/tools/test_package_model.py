"""The tool that makes portable folders."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tool_files import load_tool

from vit_adapter import LazyPredictor
from vit_adapter.checkpoint import load_state_dict_file
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.config.loading import load_config
from vit_adapter.config.weights import base_weights
from vit_adapter.engine.setup import save_config

CONFIG = "quick_start/mask_rcnn_vit_adapter_shapes"
VIT = "model.backbone.bottom_up.vit"
RESULTS = {"bbox": {"AP": 1.0}, "bbox_ema": {"AP": 2.0}}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("package_model")


@pytest.fixture
def package(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Callable[..., int]:
    """The tool's main function; ``caplog`` gets the messages."""
    monkeypatch.setattr("vit_adapter.utils.command_line.setup_logger", lambda name: None)
    monkeypatch.setattr(logging.getLogger("vit_adapter"), "propagate", True)
    return lambda *arguments: tool.main([str(argument) for argument in arguments])


def make_run(folder: Path, *, average: bool) -> dict[str, torch.Tensor]:
    """Write what a training leaves: a checkpoint of the trained part with an average.

    Returns:
        The weights that evaluation takes.
    """
    folder.mkdir()
    vit = folder.parent / "vit.pth"
    options = [
        *("train.device=cpu", "model.backbone.out_channels=32", f"{VIT}.embed_dim=48"),
        *(f"{VIT}.lora_rank=2", f"train.vit_checkpoint={vit}"),
        f"train.model_ema.use_ema_weights_for_eval_only={average}",
    ]
    cfg = load_config(CONFIG, options)
    untrained = load_config(CONFIG, options)
    untrained.train.vit_checkpoint = ""
    model, averaged = (LazyPredictor(untrained).model for _ in range(2))
    prefix = "backbone.bottom_up.vit."
    fixed = {n: value for n, value in model.state_dict().items() if n.startswith(prefix)}
    averaged.load_state_dict(fixed, strict=False)
    torch.save({n.removeprefix(prefix): v for n, v in fixed.items() if "lora" not in n}, vit)
    saver = Checkpointer(
        model,
        str(folder),
        trainer=model,
        average=averaged,
        base=base_weights(cfg),
        trained_only=True,
    )
    saver.save("model_final")
    save_config(cfg, str(folder))
    (folder / "results.json").write_text(json.dumps(RESULTS))
    vit.rename(folder / "vit.pth")
    cfg.train.vit_checkpoint = str(folder / "vit.pth")
    save_config(cfg, str(folder))
    return (averaged if average else model).state_dict()


@pytest.mark.parametrize("average", [False, True])
def test_the_folder_needs_nothing_of_the_run(
    package: Callable[..., int],
    average: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    run, output = tmp_path / "run", tmp_path / "shared" / "model"
    expected = make_run(run, average=average)
    assert package(run, output, "--licence", "mit", "--licence-text", "Data: shapes.") == 0
    assert f"Written: {output}" in capsys.readouterr().out
    run.rename(tmp_path / "gone")
    found = load_state_dict_file(output / "model.safetensors")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics == {"bbox": {"AP": 2.0 if average else 1.0}}
    assert "Data: shapes." in (output / "LICENSE.md").read_text()
    texts = [*output.glob("*.json"), *output.glob("*.md")]
    assert str(tmp_path) not in "".join(file.read_text() for file in texts)
    read = LazyPredictor.from_pretrained(output, overrides=["train.device=cpu"])
    assert all(torch.equal(read.model.state_dict()[n], v) for n, v in expected.items())


def test_results_of_other_weights_are_not_claimed(
    package: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    make_run(run, average=False)
    (run / "model_final.pth").rename(run / "model_best.pth")
    (run / "model_final.pth").write_bytes(b"not to be read")
    weights = ("--weights", run / "model_best.pth")
    assert package(run, tmp_path / "a", *weights) == 0
    assert "state no results" in caplog.text
    assert (tmp_path / "a" / "metrics.json").read_text() == "{}\n"
    assert package(run, tmp_path / "b", *weights, "--results", run / "results.json") == 0
    assert json.loads((tmp_path / "b" / "metrics.json").read_text()) == {"bbox": {"AP": 1.0}}


def test_it_is_pushed_on_request(
    package: Callable[..., int],
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    make_run(tmp_path / "run", average=False)
    pushed = []

    def push(*arguments: object, **options: object) -> str:
        pushed.append((arguments, options))
        return "http://hub/commit"

    monkeypatch.setattr(tool, "push_folder", push)
    arguments = (tmp_path / "run", tmp_path / "out")
    assert package(*arguments, "--push", "owner/shapes", "--private") == 0
    assert pushed == [((tmp_path / "out", "owner/shapes"), {"private": True})]
    assert "Pushed: http://hub/commit" in capsys.readouterr().out
    assert package(*arguments) == 2  # the folder exists
    assert package(*arguments, "--force") == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read as JSON"), ("[1]", "is not a file of results"), (None, "No such file")],
)
def test_mistakes(
    package: Callable[..., int],
    content: str | None,
    message: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    results = tmp_path / "r.json"
    if content is not None:
        results.write_text(content)
    options = ("--weights", tmp_path / "w.pth", "--results", results)
    assert package(CONFIG, tmp_path / "out", *options) == 2
    assert message in caplog.text and not (tmp_path / "out").exists()


def test_random_weights_are_refused(
    package: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert package(CONFIG, tmp_path / "out") == 2
    assert "its weights would be random; give --weights FILE" in caplog.text
    assert not (tmp_path / "out").exists()
