"""A training step whose loss is not finite, and the tool that repeats it."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from tool_files import load_tool
from torch import nn

import vit_adapter
from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.engine import replay, trainer
from vit_adapter.engine.cli import main
from vit_adapter.engine.finite import FiniteCheck

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TOOL = Path(vit_adapter.__file__).parents[1] / "tools" / "replay.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("replay")


@pytest.fixture
def random_state() -> Iterator[None]:
    """Restore PyTorch's random numbers, which the tool sets."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.mark.usefixtures("random_state")
def test_a_step_that_diverged_is_repeated(
    command: list[str], tmp_path: Path, tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    diverging = [
        "optimizer.lr=1e12",
        "lr_multiplier.warmup_iters=0",
        "train.max_iter=9",
        "train.accumulate=2",
        "model.backbone.bottom_up.vit.drop_path_rate=0.3",
    ]
    with pytest.raises(FloatingPointError) as caught:
        main([*command, *diverging])
    run = tmp_path / "run"
    [file] = run.glob("non_finite_*_process_0.pth")
    assert f"to find the cause: python projects/ViTAdapter/tools/replay.py {file}" in str(
        caught.value
    )
    weights = file.with_name(file.name.replace("_process_0", ""))
    assert sorted(run.glob("*.pth")) == sorted([file, weights])
    assert not (run / "last_checkpoint").exists()

    capsys.readouterr()
    assert tool.main([str(file)]) == 0
    shown = capsys.readouterr().out
    assert "losses of the training: not reached" in shown  # Detectron2 checks the proposals
    assert "the step is repeated" in shown
    assert "first module whose output is not finite: " in shown
    assert "largest weight: " in shown
    assert shown.count("image ") >= 2 and ".png" in shown


@pytest.mark.usefixtures("random_state")
def test_finite_losses_are_repeated_bit_for_bit(
    command: list[str],
    tmp_path: Path,
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The numbers of an ordinary step tell more than NaN does."""
    steps = iter((True, True, False))
    monkeypatch.setattr(FiniteCheck, "passed", lambda check: next(steps))
    monkeypatch.setattr(trainer, "math", SimpleNamespace(isfinite=lambda value: False))
    options = ["model.backbone.bottom_up.vit.drop_path_rate=0.3", "train.accumulate=2"]
    with pytest.raises(FloatingPointError):
        main([*command, "train.max_iter=9", *options])
    monkeypatch.undo()
    [file] = (tmp_path / "run").glob("non_finite_0000002_process_0.pth")
    assert tool.main([str(file)]) == 0
    step, _, model = tool.load_step(file, None)
    model.backbone.bottom_up.eval()  # without drop path
    assert not tool.same(step["losses"], list(tool.repeat(step, model, "cpu")))

    content = load_checkpoint_file(file)
    content["losses"][1]["loss_cls"] = math.nan
    torch.save(content, file)
    capsys.readouterr()
    assert tool.main([str(file)]) == 1
    assert "the losses are others than in the training" in capsys.readouterr().out
    file.with_name("non_finite_0000002.pth").unlink()
    assert tool.main([str(file)]) == 2
    assert tool.main([str(tmp_path / "nothing.pth")]) == 2


def test_the_files_of_an_earlier_failure_are_removed(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("non_finite_0000007.pth", "non_finite_0000007_process_3.pth"):
        (run / name).touch()
    with pytest.raises(FloatingPointError):
        main([*command, "optimizer.lr=1e12", "lr_multiplier.warmup_iters=0", "train.max_iter=9"])
    assert not list(run.glob("non_finite_0000007*"))
    assert len(list(run.glob("non_finite_*"))) == 2


def test_what_is_unusual_about_a_batch(tool: ModuleType) -> None:
    instances = Instances(
        (4, 4),
        gt_boxes=Boxes(torch.tensor([[0.0, 0, 2, 2], [1, 1, 1, 3]])),
        gt_masks=BitMasks(torch.tensor([True, False])[:, None, None].expand(2, 4, 4)),
    )
    image = torch.full((3, 4, 4), math.nan)
    batches = [
        [{"file_name": "a.png", "image": image, "instances": instances}],
        [{"file_name": "b.png", "instances": instances[:0]}],
    ]
    lines = list(tool.inspect_batch(batches))
    assert lines == [
        "image a.png: (3, 4, 4) no finite number, 48 not finite",
        "  boxes without area: [[1.0, 1.0, 1.0, 3.0]]",
        "  masks without a pixel: objects [1]",
        "image b.png",
        "  no objects",
    ]


def test_the_first_module_is_named(tool: ModuleType) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), nn.ReLU())
    nn.init.constant_(model[1][1].bias, math.inf)
    with tool.watched(model) as found:
        model(torch.ones(1, 2))
    assert len(found) == 1
    assert found[0].startswith("first module whose output is not finite: 1.1 (Linear)")
    assert list(tool.inspect_weights(model))[0].startswith("weights that are not finite: 1.1.bias")


def test_a_disk_that_is_full_does_not_hide_the_error(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(content: object, file: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(replay, "atomic_save", fail)
    with pytest.raises(FloatingPointError, match="changed no weights") as caught:
        main([*command, "optimizer.lr=1e12", "lr_multiplier.warmup_iters=0", "train.max_iter=9"])
    assert "replay.py" not in str(caught.value)


def test_equal_losses(tool: ModuleType) -> None:
    one = [{"a": math.nan, "b": 1.0}, {"a": 2.0, "b": math.inf}]
    assert tool.same(one, [dict(part) for part in one])
    for number, name, value in ((0, "a", 1.0), (0, "b", math.nan), (1, "b", -math.inf)):
        other = [dict(part) for part in one]
        other[number][name] = value
        assert not tool.same(one, other)
    assert not tool.same(one, one[:1])
