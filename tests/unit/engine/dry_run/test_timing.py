"""Times of steps and of loading, and what a dry run concludes from them."""

import itertools
import time
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from vit_adapter.engine.dry_run.report import Report
from vit_adapter.engine.dry_run.timing import EnoughSteps, StepTimer, TimedLoader, report_time


def report(*, steps: list[float], waits: list[float], loading: float | None, workers: int):
    train = {"total_batch_size": 4, "num_workers": workers}
    cfg = OmegaConf.create({"dataloader": {"train": train}, "train": {"max_iter": 1000}})
    result = Report()
    report_time(
        cfg, result, steps=steps, waits=waits, loading=loading, num_images=40, start_iter=200
    )
    return result, result.content()["time"]


def test_medians_after_the_warm_up() -> None:
    steps, waits = [9, 9, 1.0, 1.2, 1.1, 1.3, 7], [5, 5, 0.1, 0.1, 0.1, 0.1, 6]
    result, values = report(steps=steps, waits=waits, loading=None, workers=0)
    assert values["timed_steps"] == 5
    assert values["step_seconds"] == pytest.approx(1.2)
    assert values["computing_seconds"] == pytest.approx(1.1)
    assert values["epoch_seconds"] == pytest.approx(12)
    assert values["run_seconds"] == pytest.approx(800 * 1.2)
    assert values["images_per_second"] == pytest.approx(4 / 1.2)
    assert result.warnings == []


@pytest.mark.parametrize(
    ("wait", "loading", "workers", "step", "warns"),
    [
        (0.0, 0.5, 2, 1.0, False),  # the workers are faster than a step
        (0.0, 3.0, 2, 3.0, True),  # only what was prefetched hides that they are not
        (0.3, None, 0, 1.3, True),  # a step waits for its own process
    ],
)
def test_whether_the_data_keep_up(wait, loading, workers, step, warns) -> None:
    result, values = report(
        steps=[1.0 + wait] * 7, waits=[wait] * 7, loading=loading, workers=workers
    )
    assert values["step_seconds"] == pytest.approx(step)
    assert bool(result.warnings) is warns
    assert not warns or "The data do not keep up" in result.warnings[0]


def test_fewer_steps_than_the_warm_up() -> None:
    _, values = report(steps=[2.0], waits=[0.5], loading=None, workers=0)
    assert (values["timed_steps"], values["step_seconds"]) == (1, 2.0)


def test_loader_is_timed() -> None:
    def slow():
        for number in itertools.count():
            time.sleep(0.01)
            yield number

    loader = TimedLoader(slow())
    assert next(iter(loader)) == 0 and next(loader) == 1 and loader.first == 0
    assert len(loader.seconds) == 2 and min(loader.seconds) >= 0.01
    assert loader.measure(num_prefetched=3) >= 0.01
    assert next(loader) == 10  # after 2, 3 and 5 batches


def test_stops_after_seven_steps() -> None:
    timer = StepTimer(torch.device("cpu"))
    timer.trainer = SimpleNamespace()
    for _ in range(6):
        timer.before_step()
        timer.after_step()
    timer.before_step()
    with pytest.raises(EnoughSteps):
        timer.after_step()
    assert len(timer.seconds) == 7 and min(timer.seconds) > 0
