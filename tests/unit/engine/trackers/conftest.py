"""Stand-ins for the libraries of the trackers, which need not be installed, and a short run."""

import importlib.machinery
import itertools
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from detectron2.utils.events import EventStorage, EventWriter
from omegaconf import DictConfig, OmegaConf


class Library(types.ModuleType):
    """A module that notes what is done with it in ``calls``; ``error`` makes every call fail."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.calls: list[tuple] = []
        self.error: Exception | None = None
        self.numbers = itertools.count()

    def note(self, *call: object) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(call)

    def named(self, name: str) -> list[tuple]:
        """The arguments of all calls of this name."""
        return [call[1:] for call in self.calls if call[0] == name]


def _wandb() -> Library:
    library = Library("wandb")
    library.Error = type("Error", (Exception,), {})
    library.has_no_network = False
    library.Image = lambda pixels: ("image", pixels.shape, pixels.dtype)

    def init(
        project=None, name=None, id=None, dir=None, resume=None, mode=None, tags=None
    ) -> SimpleNamespace:
        library.calls.append(("init", dict(project=project, id=id, dir=dir, mode=mode, tags=tags)))
        if library.has_no_network and mode != "offline":
            raise library.Error("no network")
        return SimpleNamespace(
            id=id or f"wandb{next(library.numbers)}",
            settings=SimpleNamespace(sync_dir=f"{dir}/wandb/offline-run"),
            config=SimpleNamespace(update=lambda values, **_: library.note("config", values)),
            define_metric=lambda name, step_metric: library.note("axis", name, step_metric),
            log=lambda values: library.note("log", values),
            finish=lambda exit_code: library.note("finish", exit_code),
        )

    library.init = init
    return library


def _mlflow() -> Library:
    library = Library("mlflow")

    def start_run(run_id=None, run_name=None, tags=None) -> None:
        library.note("start_run", run_id, run_name)
        library.run = SimpleNamespace(
            info=SimpleNamespace(run_id=run_id or f"mlflow{next(library.numbers)}")
        )

    library.start_run = start_run
    library.active_run = lambda: library.run
    library.set_tracking_uri = lambda uri: library.note("set_tracking_uri", uri)
    library.set_experiment = lambda name: library.note("set_experiment", name)
    library.log_params = lambda params: library.note("log_params", params)
    library.log_text = lambda text, file: library.note("log_text", text, file)
    library.log_metrics = lambda metrics, step, synchronous: library.note("metrics", step, metrics)
    library.log_image = lambda image, key, step, synchronous: library.note(
        "image", step, key, image.shape, image.dtype
    )
    library.end_run = lambda status: library.note("end_run", status)
    return library


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = _wandb()
    monkeypatch.setitem(sys.modules, "wandb", library)
    return library


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    library = _mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", library)
    for variable in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(variable, "1")  # so that it is restored
    return library


def make_config(**train: Any) -> DictConfig:
    """A config that enables the trackers named by keyword, with these parameters."""
    nodes = {name: {"enabled": True, "params": params} for name, params in train.items()}
    content = {
        "size": 3,
        "model": {"_target_": np.zeros, "shape": "${size}", "more": ["${size}"]},
        "train": {"max_iter": 5, **nodes},
    }
    return OmegaConf.create(content, flags={"allow_objects": True})


@pytest.fixture
def config() -> Callable[..., DictConfig]:
    return make_config


def write(writers: list[EventWriter], start: int, stop: int) -> None:
    """Put a scalar in each iteration, an image and a result in number 2; write in 1, 3, ..."""
    with EventStorage(start) as storage:
        for storage.iter in range(start, stop):
            storage.put_scalar("loss", float(storage.iter), smoothing_hint=False)
            if storage.iter == 2:
                storage.put_image("shown", np.zeros((3, 4, 6), dtype=np.float32))
                storage.put_scalars(**{"bbox/AP-a, b": 12.5}, smoothing_hint=False)
            if storage.iter % 2:
                for writer in writers:
                    writer.write()
                storage.clear_images()  # as TensorBoard's writer does
        for writer in writers:
            writer.write()
            writer.close()


@pytest.fixture
def write_run() -> Callable[[list[EventWriter], int, int], None]:
    return write


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)
