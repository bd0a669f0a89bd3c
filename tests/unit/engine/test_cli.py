"""The command line: what is wrong with it is said in one line, with exit status 2."""

from argparse import Namespace
from pathlib import Path

import pytest

from vit_adapter.engine import cli
from vit_adapter.engine.process_group import Process

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
        (["--config-file", "CONFIG", "train.device=tpu7"], "train.device='tpu7' is no device"),
        (["--config-file", "CONFIG", "train.max_iter=-1"], "train.max_iter=-1, expected"),
        ([], "use --config-file"),
        (["--config-file", "CONFIG", "train.device=cpu:0", "--num-gpus", "2"], "is one device for"),
        (
            [
                "--config-file",
                "CONFIG",
                "train.device=cpu:0",
                "--num-machines",
                "2",
                "--dist-url",
                "tcp://host:1",
            ],
            "train.device=cpu:0 is one device for 2 processes; use train.device=cpu and",
        ),
        (
            ["--config-file", "CONFIG", "+dataloader.train.total_batch_size=3", "--num-gpus", "2"],
            "total_batch_size=3 cannot be shared out to 2 processes",
        ),
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


def torchrun(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    """Set what torchrun sets."""
    variables = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
    }
    for name, value in (variables | changes).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-gpus", "2"], "as RANK 1 of 2: leave out --num-gpus"),
        (["--num-gpus", "1"], "leave out --num-gpus"),
        (["--num-machines", "1"], "leave out --num-gpus, --num-machines"),
        (["--machine-rank", "0"], "leave out"),
        (["--dist-url", "auto"], "leave out"),
        (["train.device=cpu:0"], "train.device=cpu:0 is one device for 2 processes"),
    ],
)
def test_mistakes_under_torchrun(
    arguments: list[str],
    message: str,
    config_file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torchrun(monkeypatch)
    with pytest.raises(SystemExit) as caught:
        cli.main(["--config-file", config_file, *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_torchrun_starts_no_processes(config_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun(monkeypatch)
    seen = []
    monkeypatch.setattr(cli, "run_among_others", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr(cli, "launch", lambda *_: seen.append("launched"))
    cli.main(["--config-file", config_file])
    ((main, process, device_type, (arguments,)),) = seen
    assert (main, device_type, arguments.config_file) == (cli.run, "cpu", config_file)
    assert process == Process(rank=1, world_size=2, local_rank=1, init_method="env://")


def test_processes_of_another_launcher(
    config_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    seen = []
    monkeypatch.setattr(cli, "launch", lambda _, layout, __: seen.append(layout.world_size))
    with pytest.raises(SystemExit):
        cli.main(["--config-file", config_file])
    assert "srun has started 2 processes" in capsys.readouterr().err
    machines = ["--num-machines", "2", "--dist-url", "tcp://host:1"]
    cli.main(["--config-file", config_file, *machines])
    assert seen == [2]


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
        num_gpus=2,
        num_machines=None,
        machine_rank=None,
        dist_url=None,
        overrides=["train.max_iter=5", "+train.x=1"],
    )
