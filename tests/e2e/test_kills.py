"""A training with data workers that is killed again and again ends like one that is not.

The environment variable ``VIT_ADAPTER_KILLS=20,5`` sets the number of SIGKILLs, of which a
fourth, and at least three, come inside the writing of a checkpoint, and of SIGTERMs.
"""

import json
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked
import pytest
import run_until_killed
from test_exact_resume import compare

from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.checkpoint.resumable import describe_damage, find_resumable

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals"),
]

KILLS, TERMS = map(int, os.environ.get("VIT_ADAPTER_KILLS", "4,1").split(","))
PERIOD = 2
TIMES = ("time", "data_time", "eta_seconds")
END = 7 * (KILLS + TERMS) + 10  # more than all interruptions together reach


def events() -> list[tuple[str, int]]:
    """Place and signal of each interruption, in random order; "" is any place."""
    inside = [run_until_killed.PLACES[n % 3] for n in range(max(3, KILLS // 4))]
    kills = [(place, signal.SIGKILL) for place in [*inside, *[""] * (KILLS - len(inside))]]
    result = kills + [("", signal.SIGTERM)] * TERMS
    random.Random(0).shuffle(result)
    return result


def last_iteration(run: Path) -> int:
    """The last iteration in ``metrics.json``; -1 before the first."""
    try:
        lines = (run / "metrics.json").read_text().splitlines()
        return max((int(json.loads(line)["iteration"]) for line in lines), default=-1)
    except (OSError, ValueError):  # not there, or just being written
        return -1


def metrics(run: Path) -> list[dict[str, float]]:
    """The entries of ``metrics.json``, without times."""
    lines = (run / "metrics.json").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMES}
        for line in lines
    ]


def stamp(run: Path) -> int:
    """Changes when a start has removed the metrics that it will compute again."""
    config = run / "config.yaml"
    return config.stat().st_mtime_ns if config.exists() else 0


def saved_iteration(run: Path) -> int:
    """The iteration of the checkpoint from which ``--resume`` continues; -1 if there is none."""
    if not (run / "last_checkpoint").exists():
        return -1
    file = find_resumable(run)
    assert file.name == (run / "last_checkpoint").read_text(), "the last one is whole"
    assert describe_damage(file) is None
    return load_checkpoint_file(file)["iteration"]


def wait_for(condition, process: BaseProcess) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.is_alive(), f"it has ended with {process.exitcode}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start(command: list[str], place: str, writes: int, marker: Path) -> BaseProcess:
    program = Path(run_until_killed.__file__)
    return forked.start(program, "run", command, place, writes, str(marker))


def test_a_training_that_is_killed_ends_like_another(command: list[str], tmp_path: Path) -> None:
    draw = random.Random(1)
    common = [
        *command,
        f"train.max_iter={END}",
        f"train.checkpointer.period={PERIOD}",
        "dataloader.train.num_workers=2",
        "model.backbone.bottom_up.vit.drop_path_rate=0.3",
        "data.val_json=",
        "data.val_images=",
        "--resume",
    ]
    run, whole = tmp_path / "run", tmp_path / "whole"
    marker = tmp_path / "marker"
    process = start([*common, f"train.output_dir={whole}"], "", 0, marker)
    process.join()
    assert process.exitcode == 0
    counts = {"resumed": 0, "lost": 0}
    for place, number in events():
        before = saved_iteration(run)
        marker.unlink(missing_ok=True)
        earlier = stamp(run)
        process = start(common, place, draw.randrange(2) if before >= 0 else 1, marker)
        if place:
            wait_for(marker.exists, process)
        else:
            goal = before + draw.randint(1, 4)
            wait_for(lambda earlier=earlier: stamp(run) != earlier, process)
            wait_for(lambda goal=goal: last_iteration(run) >= goal, process)
            time.sleep(draw.uniform(0, 0.1))
        reached = last_iteration(run)
        os.kill(process.pid, number)
        process.join(120)
        saved = saved_iteration(run)
        assert saved >= before
        if number == signal.SIGTERM:
            assert process.exitcode == 143
            assert saved >= reached
        else:
            assert process.exitcode == -signal.SIGKILL
            assert saved >= reached - PERIOD
        counts["resumed"] += 1
        counts["lost"] += max(0, reached - saved)
    process = start(common, "", 0, marker)
    process.join()
    assert process.exitcode == 0
    print(f"{counts['resumed']} interruptions, {counts['lost']} iterations computed again")
    one, other = (load_checkpoint_file(folder / "model_final.pth") for folder in (run, whole))
    compare(one, other)
    assert metrics(run) == metrics(whole)
    assert [entry["iteration"] for entry in metrics(run)] == list(range(END))
    assert not [file.name for file in run.iterdir() if ".unfinished-" in file.name]
