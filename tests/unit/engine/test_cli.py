"""The command line: a mistake ends with one line of message and exit status 2."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from vit_adapter import model_zoo
from vit_adapter.config.portable import describe_model
from vit_adapter.engine import cli
from vit_adapter.engine.process_group import Process
from vit_adapter.hub import write_folder

CONFIG = 'model = dict()\ntrain = dict(device="cpu", max_iter=1)\n'


@pytest.fixture()
def config_file(tmp_path: Path) -> str:
    (tmp_path / "config.py").write_text(CONFIG)
    return str(tmp_path / "config.py")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "nowhere.py"], "config file 'nowhere.py' does not exist"),
        (["--config-file", "CONFIG", "train.max_itr=1"], "Did you mean train.max_iter"),
        (["--config-file", "CONFIG", "--num-gpus", "0"], "--num-gpus is 0"),
        (["--config-file", "CONFIG", "train.device=tpu7"], "train.device='tpu7' is not a device"),
        (["--config-file", "CONFIG", "train.max_iter=-1"], "train.max_iter=-1, expected"),
        (
            ["--config-file", "CONFIG", "+train.wandb={enabled:True,params:{projct:p}}"],
            "train.wandb",
        ),
        ([], "use --config-file"),
        (["--config-file", "CONFIG", "--bogus"], "unrecognized arguments"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    config_file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = []
    monkeypatch.setattr(cli, "launch", lambda *_: started.append(1))
    arguments = [config_file if text == "CONFIG" else text for text in arguments]
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not started


def test_place_from_a_launcher_reaches_the_run(
    config_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Process(rank=1, world_size=2, local_rank=1, init_method="env://", device_type="cpu")
    seen = []
    monkeypatch.setattr(cli, "plan_processes", lambda cfg, arguments: place)
    monkeypatch.setattr(cli, "launch", lambda *arguments: seen.append(arguments))
    cli.main(["--config-file", config_file])
    ((main, processes, (arguments,)),) = seen
    assert (main, processes, arguments.config_file) == (cli.run, place, config_file)


def test_options_reach_the_processes(config_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        cli, "launch", lambda main, layout, arguments: seen.append((main, layout, *arguments))
    )
    cli.main(
        [
            "train.max_iter=5",
            "--config-file",
            config_file,
            "--eval-only",
            "--num-gpus",
            "2",
            "+train.x=1",
        ]
    )
    ((main, layout, arguments),) = seen
    assert main is cli.run
    assert (layout.device_type, layout.world_size, layout.dist_url) == ("cpu", 2, "auto")
    assert arguments == Namespace(
        config_file=config_file,
        resume=False,
        eval_only=True,
        dry_run=False,
        num_gpus=2,
        num_machines=None,
        machine_rank=None,
        dist_url=None,
        overrides=["train.max_iter=5", "+train.x=1"],
    )


@pytest.mark.parametrize(("is_ready", "status"), [(True, 0), (False, 1)])
def test_dry_run_trains_nothing_and_gives_a_status(
    is_ready: bool, status: int, config_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(cli, "launch", lambda *_: pytest.fail("training started"))
    monkeypatch.setattr(
        cli, "dry_run", lambda *given: seen.append(given) or Namespace(is_ready=is_ready)
    )
    with pytest.raises(SystemExit) as caught:
        cli.main(["--config-file", config_file, "--dry-run", "--num-gpus", "3"])
    assert caught.value.code == status
    ((cfg, arguments, processes),) = seen
    assert cfg.train.max_iter == 1 and arguments.dry_run and processes.world_size == 3


def test_dry_run_refuses_a_launcher(
    config_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Process(rank=1, world_size=2, local_rank=1, init_method="env://", device_type="cpu")
    monkeypatch.setattr(cli, "plan_processes", lambda cfg, arguments: place)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["--config-file", config_file, "--dry-run"])
    assert "instead of a launcher" in capsys.readouterr().err


def test_portable_folders_are_checked_and_only_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = model_zoo.get_config("quick_start/mask_rcnn_vit_adapter_shapes")
    contents = describe_model(cfg, {"thing_classes": ["a", "b", "c"]}, {})
    weights = {"w": torch.zeros(1)}
    folder = write_folder(tmp_path / "model", contents, weights, card="", licence="")
    launched = []
    monkeypatch.setattr(cli, "launch", lambda *arguments: launched.append(arguments))
    command = ["--config-file", str(folder), "train.device=cpu"]
    cli.main([*command, "--eval-only"])
    assert len(launched) == 1
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "cannot be trained" in capsys.readouterr().err
    (folder / "classes.json").write_text('{"thing_classes": ["a", "b", "d"]}')
    with pytest.raises(SystemExit):
        cli.main([*command, "--eval-only"])
    assert "classes.json was altered or damaged" in capsys.readouterr().err
    assert len(launched) == 1
