"""An output folder that is not empty: nothing is lost, and nothing broken is kept."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vit_adapter.checkpoint.files import local_path
from vit_adapter.config.errors import UsageError
from vit_adapter.engine.output_dir import (
    claim_output_dir,
    describe_earlier_runs,
    drop_unsaved_progress,
    follow_weights,
    refuse_restart,
    set_previous_run_aside,
)
from vit_adapter.utils.atomic import TEMPORARY_MARK


def write_run(folder: Path, content: str = "x") -> None:
    names = (
        "model_0000009.pth",
        "model_final.pth",
        "model_best.pth",
        "evaluations.json",
        "last_checkpoint",
        "metrics.json",
        "results.json",
        "results_eval.json",
        "config.yaml",
        "config.yaml.pkl",
        "config_eval.yaml",
        "events.out.tfevents.1",
        "trackers.json",
    )
    for name in names:
        (folder / name).write_text(content)
    for file in ("inference/predictions.json", "wandb/offline-run-1/run.wandb"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text(content)


def test_empty_or_absent_folder(tmp_path: Path) -> None:
    assert set_previous_run_aside(tmp_path / "absent") is None
    (tmp_path / "log.txt").write_text("only a log")
    assert set_previous_run_aside(tmp_path) is None
    assert [file.name for file in tmp_path.iterdir()] == ["log.txt"]


def test_earlier_runs_move_to_folders_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("log")
    (tmp_path / "model_zoo.md").write_text("the user's own")
    for number in (1, 2):
        write_run(tmp_path, content=f"run {number}")
        aside = set_previous_run_aside(tmp_path)
        assert aside == tmp_path / f"previous_run_{number}"
        assert len(list(aside.iterdir())) == 15
        assert (aside / "inference/predictions.json").read_text() == f"run {number}"
        assert (aside / "model_final.pth").read_text() == f"run {number}"
        assert {file.name for file in tmp_path.iterdir() if file.is_file()} == {
            "log.txt",
            "model_zoo.md",
        }
    assert (tmp_path / "previous_run_1/model_final.pth").read_text() == "run 1"


def test_checkpoints_without_last_checkpoint_are_a_run_too(tmp_path: Path) -> None:
    (tmp_path / "model_0000009.pth").write_text("x")
    assert set_previous_run_aside(tmp_path) is not None


def test_folders_of_sharded_checkpoints_are_a_run_too(tmp_path: Path) -> None:
    (tmp_path / "model_0000009.sharded").mkdir()
    aside = set_previous_run_aside(tmp_path)
    assert [path.name for path in aside.iterdir()] == ["model_0000009.sharded"]


def test_results_of_an_evaluation_are_kept_too(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    refuse_restart(tmp_path, 1)  # no training is lost
    aside = set_previous_run_aside(tmp_path)
    assert aside is not None
    assert [file.name for file in aside.iterdir()] == ["results.json"]


def test_runs_that_were_moved_aside_are_named(tmp_path: Path) -> None:
    assert describe_earlier_runs(tmp_path / "absent") == describe_earlier_runs(tmp_path) == ""
    for _ in range(2):
        write_run(tmp_path)
        set_previous_run_aside(tmp_path)
    text = describe_earlier_runs(tmp_path)
    assert f"{tmp_path}/previous_run_1, {tmp_path}/previous_run_2; to continue one" in text


def test_paths_of_moved_weights_are_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    write_run(Path("out"))
    Path("other").mkdir()
    Path("other/model_final.pth").touch()
    kept = {
        "elsewhere": "other/model_final.pth",
        "url": "https://host/model_final.pth",
        "none": "",
        "timm": "timm:vit_tiny",
    }
    nodes = {
        name: OmegaConf.create({"init_checkpoint": path, "vit_checkpoint": path})
        for name, path in kept.items()
    }
    moved = OmegaConf.create({"init_checkpoint": "./out/model_final.pth", "vit_checkpoint": ""})
    aside = set_previous_run_aside("out")
    for name, options in nodes.items():
        follow_weights(options, aside)
        assert options.init_checkpoint == options.vit_checkpoint == kept[name]
    follow_weights(moved, None)
    assert moved.init_checkpoint == "./out/model_final.pth"
    follow_weights(moved, aside)
    assert moved.init_checkpoint == "out/previous_run_1/model_final.pth"
    assert "use train.init_checkpoint=out/previous_run_1/model_final.pth" in caplog.text


def test_paths_that_did_not_move_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    options = OmegaConf.create({"vit_checkpoint": "timm:vit_tiny"})
    follow_weights(options, set_previous_run_aside("."))
    assert options.vit_checkpoint == "timm:vit_tiny"


@pytest.mark.parametrize("inside", [True, False])
def test_links_to_moved_weights_are_updated(tmp_path: Path, inside: bool) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    link, file = (out, elsewhere) if inside else (elsewhere, out)
    (file / "model_a.pth").write_text("weights")
    (link / "model_b.pth").symlink_to(Path("..", file.name, "model_a.pth"))
    options = OmegaConf.create({"init_checkpoint": str(link / "model_b.pth")})
    follow_weights(options, set_previous_run_aside(out))
    moved = out / "previous_run_1" / ("model_b.pth" if inside else "model_a.pth")
    assert options.init_checkpoint == str(moved)
    assert moved.read_text() == "weights"
    with pytest.raises(FileNotFoundError, match=str(moved)):
        local_path(link / "model_b.pth")


@pytest.mark.parametrize("start_iter", [0, 10])
def test_claimed_folder(start_iter: int, tmp_path: Path) -> None:
    """A new run moves an earlier one aside and updates paths of weights; a resumed one does not."""
    write_run(tmp_path, content="")
    (tmp_path / "metrics.json").write_text('{"iteration": 9}\n{"iteration": 10}\n')
    weights = tmp_path / "model_final.pth"
    cfg = OmegaConf.create(
        {"train": {"output_dir": str(tmp_path), "init_checkpoint": str(weights)}}
    )
    assert claim_output_dir(cfg, start_iter) == str(tmp_path)
    if start_iter:
        assert weights.exists()
        assert (tmp_path / "metrics.json").read_text() == '{"iteration": 9}\n'
    else:
        weights = tmp_path / "previous_run_1/model_final.pth"
        assert not (tmp_path / "metrics.json").exists()
    assert cfg.train.init_checkpoint == str(weights)
    assert OmegaConf.load(tmp_path / "config.yaml") == cfg


def test_restart_does_not_start_from_scratch(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("")
    refuse_restart(tmp_path, 1)  # nothing is lost
    write_run(tmp_path)
    refuse_restart(tmp_path, 0)
    with pytest.raises(UsageError, match=r"(?s)restart 2.*contains checkpoints.*--resume"):
        refuse_restart(tmp_path, 2)


def test_unfinished_files_are_removed(tmp_path: Path) -> None:
    unfinished = tmp_path / f".model_0000009.pth{TEMPORARY_MARK}abc"
    unfinished.write_text("half")
    folder = tmp_path / f".model.safetensors{TEMPORARY_MARK}abc"
    folder.mkdir()
    (folder / "model.safetensors").write_text("half")
    drop_unsaved_progress(tmp_path, 5)
    assert not list(tmp_path.iterdir())


def test_unfinished_folders_are_removed(tmp_path: Path) -> None:
    unfinished = tmp_path / f".model_0000009.sharded{TEMPORARY_MARK}abc"
    unfinished.mkdir()
    (unfinished / "rest.pth").touch()
    drop_unsaved_progress(tmp_path, 5)
    assert not unfinished.exists()


def test_run_without_a_checkpoint_starts_with_empty_metrics(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"iteration": 0}\n{"iter')
    drop_unsaved_progress(tmp_path, 0)
    assert (tmp_path / "metrics.json").read_text() == ""


def test_metrics_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    lines = [json.dumps({"iteration": i, "total_loss": 1.0}) for i in range(8)]
    (tmp_path / "metrics.json").write_text("\n".join([*lines, '{"iteration": 8, "tot']))
    drop_unsaved_progress(tmp_path, start_iter=5)
    assert (tmp_path / "metrics.json").read_text() == "".join(f"{line}\n" for line in lines[:5])


def test_evaluation_between_two_iterations_is_kept(tmp_path: Path) -> None:
    """An evaluation, even one with NaN, has the number of the iteration before it."""
    text = '{"bbox/APl": NaN, "iteration": 4}\n'
    (tmp_path / "metrics.json").write_text(text)
    drop_unsaved_progress(tmp_path, start_iter=5)
    assert (tmp_path / "metrics.json").read_text() == text
