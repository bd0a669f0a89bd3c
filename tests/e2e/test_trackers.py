"""A training that Weights & Biases follows, by a stand-in for the library, and resumed."""

import importlib.machinery
import json
import sys
import types
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What the library is given: (run id, what, values)."""
    calls, numbers = [], count()

    def init(project=None, name=None, id=None, dir=None, resume=None) -> SimpleNamespace:
        run_id = id or f"run{next(numbers)}"
        return SimpleNamespace(
            id=run_id,
            config=SimpleNamespace(
                update=lambda values, **_: calls.append((run_id, "config", values))
            ),
            define_metric=lambda *_, **__: None,
            log=lambda values: calls.append((run_id, "log", values)),
            finish=lambda exit_code: calls.append((run_id, "finish", exit_code)),
        )

    library = types.ModuleType("wandb")
    library.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    library.Error, library.Image, library.init = RuntimeError, lambda pixels: pixels, init
    monkeypatch.setitem(sys.modules, "wandb", library)
    return calls


def test_training_is_followed_and_resumed(
    command: list[str], tmp_path: Path, sent: list[tuple]
) -> None:
    command = [*command, "train.wandb.enabled=True", "train.wandb.params.name=2024_01"]
    main([*command, "train.max_iter=2"])
    main([*command, "--resume", "train.max_iter=3"])
    assert {run_id for run_id, _, _ in sent} == {"run0"}
    configs = [values for _, what, values in sent if what == "config"]
    assert [config["train"]["max_iter"] for config in configs] == [2, 3]
    assert configs[0]["train"]["wandb"]["params"]["name"] == "2024_01"
    assert [values for _, what, values in sent if what == "finish"] == [0, 0]

    logged = [values for _, what, values in sent if what == "log"]
    pictures = [
        (values["iteration"], name)
        for values in logged
        for name in values
        if name.startswith("predictions/")
    ]
    assert len(pictures) == 6 and {iteration for iteration, _ in pictures} == {2, 3}
    lines = (tmp_path / "run/metrics.json").read_text().splitlines()
    expected = [
        (entry["iteration"], name, entry[name])
        for entry in map(json.loads, lines)
        for name in ("total_loss", "lr", "bbox/AP-circle", "segm/AP")
        if name in entry
    ]
    assert len(expected) == 8
    numbers = [
        (values["iteration"], name, values[name])
        for values in logged
        for name in ("total_loss", "lr", "bbox/AP-circle", "segm/AP")
        if name in values
    ]
    # The resumed run has removed the results of the first one, after its last iteration, from the
    # file: these two are not of its own iterations.
    of_first_run = [entry for entry in numbers if entry not in expected]
    assert [entry[:2] for entry in of_first_run] == [(2, "bbox/AP-circle"), (2, "segm/AP")]
    assert [entry for entry in numbers if entry in expected] == expected
