"""The schedules: hand-computed multipliers, and refused arguments."""

import math

import pytest
import torch
from detectron2.solver import LRMultiplier

from vit_adapter.solver import WarmupCosine, WarmupMultiStep, WarmupPoly

# COCO 1x: 12 epochs of 7330 iterations, steps after epochs 8 and 11.
ONE_EPOCH = 7330
COCO_1X = {"max_iter": 12 * ONE_EPOCH, "epochs": 12, "milestones": [8, 11]}


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (0, 0.001),
        (1, 0.001 + 0.999 / 500),
        (250, 0.5005),
        (499, 0.001 + 0.999 * 499 / 500),
        (500, 1.0),
        (8 * ONE_EPOCH - 1, 1.0),
        (8 * ONE_EPOCH, 0.1),
        (11 * ONE_EPOCH - 1, 0.1),
        (11 * ONE_EPOCH, 0.01),
        (12 * ONE_EPOCH - 1, 0.01),
    ],
)
def test_coco_1x_values(iteration: int, expected: float) -> None:
    schedule = WarmupMultiStep(**COCO_1X)
    assert schedule(iteration / COCO_1X["max_iter"]) == pytest.approx(expected, rel=1e-12)


def test_steps_are_at_the_exact_iteration_despite_rounding() -> None:
    for max_iter in (7, 97, 1000, 87_960, 263_880):
        schedule = WarmupMultiStep(max_iter=max_iter, epochs=7, milestones=[3, 5], warmup_iters=0)
        drops = [round(max_iter * 3 / 7), round(max_iter * 5 / 7)]
        for index, drop in enumerate(drops):
            assert schedule((drop - 1) / max_iter) == pytest.approx(0.1**index)
            assert schedule(drop / max_iter) == pytest.approx(0.1 ** (index + 1))


def test_short_run_keeps_the_shape_and_never_leaves_the_warm_up() -> None:
    schedule = WarmupMultiStep(max_iter=2, epochs=12, milestones=[8, 11])
    # Milestones round to iterations 1 and 2, the ramp is 0.001 + 0.999 / 500 at iteration 1.
    assert schedule(0.0) == pytest.approx(0.001)
    assert schedule(0.5) == pytest.approx(0.1 * (0.001 + 0.999 / 500))


def test_no_warm_up_and_no_milestones_is_constant() -> None:
    schedule = WarmupMultiStep(max_iter=10, epochs=1, milestones=[], warmup_iters=0)
    assert [schedule(i / 10) for i in range(11)] == [1.0] * 11


def test_drives_every_parameter_group_through_detectron2() -> None:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (1.0, 0.5)]
    optimizer = torch.optim.AdamW(groups)
    schedule = WarmupMultiStep(
        max_iter=10, epochs=10, milestones=[4], gamma=0.1, warmup_iters=2, warmup_factor=0.0
    )
    scheduler = LRMultiplier(optimizer, schedule, max_iter=10)
    rates = []
    for _ in range(6):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    expected = [0.0, 0.5, 1.0, 1.0, 0.1, 0.1]
    torch.testing.assert_close(
        torch.tensor(rates), torch.tensor([[value, value / 2] for value in expected])
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_iter": 0}, "max_iter and epochs must be >= 1, got 0 and 12"),
        ({"epochs": 0}, "max_iter and epochs must be >= 1"),
        ({"milestones": [8, 12]}, r"between 0 and epochs=12, got \[8, 12\]"),
        ({"milestones": [0, 8]}, "milestones must increase"),
        ({"milestones": [8, 8]}, "milestones must increase"),
        ({"gamma": 0.0}, "gamma must be > 0"),
        ({"warmup_iters": -1}, "warmup_iters must be >= 0"),
        ({"warmup_factor": 1.5}, r"warmup_factor in \[0, 1\], got 500 and 1.5"),
    ],
)
def test_arguments_that_do_not_fit(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmupMultiStep(**{**COCO_1X, **wrong})


def slow_poly(iteration: int, max_iter: int, power: float) -> float:
    """The original's two steps: the decayed value, which the warm-up then reduces."""
    decayed = (1 - iteration / max_iter) ** power
    if iteration >= 1500:
        return decayed
    return decayed * (1 - (1 - iteration / 1500) * (1 - 1e-6))


@pytest.mark.parametrize("max_iter", [40_000, 160_000])
@pytest.mark.parametrize("power", [1.0, 0.9])
def test_poly_values(max_iter: int, power: float) -> None:
    schedule = WarmupPoly(max_iter=max_iter, power=power)
    for iteration in (0, 1, 750, 1499, 1500, 1501, max_iter // 2, max_iter - 1):
        expected = slow_poly(iteration, max_iter, power)
        assert schedule(iteration / max_iter) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert schedule(0.0) == 1e-6
    assert schedule(1.0) == 0.0


def test_poly_without_warm_up_is_a_straight_line() -> None:
    schedule = WarmupPoly(max_iter=10, warmup_iters=0)
    assert [schedule(i / 10) for i in range(11)] == pytest.approx([1 - i / 10 for i in range(11)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_iter": 0}, "max_iter must be >= 1, got 0"),
        ({"power": 0.0}, "power must be > 0, got 0.0"),
        ({"warmup_iters": -1}, "warmup_iters must be >= 0"),
        ({"warmup_factor": 2.0}, r"warmup_factor in \[0, 1\], got 1500 and 2.0"),
    ],
)
def test_poly_arguments_that_do_not_fit(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmupPoly(**{"max_iter": 10, **wrong})


# COCO with large-scale jitter
LSJ_25 = {"max_iter": 25 * ONE_EPOCH, "epochs": 25, "end_factor": 0.01, "warmup_iters": 2000}


def slow_cosine(iteration: int) -> float:
    """The original's two steps: the annealed value of the epoch, which the warm-up then reduces."""
    epoch = iteration // ONE_EPOCH
    annealed = 0.01 + 0.5 * (1 - 0.01) * (math.cos(math.pi * epoch / 25) + 1)
    if iteration >= 2000:
        return annealed
    return annealed * (1 - (1 - iteration / 2000) * (1 - 0.001))


def test_cosine_values() -> None:
    schedule = WarmupCosine(**LSJ_25)
    last = 25 * ONE_EPOCH - 1
    for iteration in (0, 1, 1999, 2000, ONE_EPOCH - 1, ONE_EPOCH, 10 * ONE_EPOCH + 5, last):
        expected = slow_cosine(iteration)
        assert schedule(iteration / LSJ_25["max_iter"]) == pytest.approx(expected, rel=1e-12)
    assert schedule(0.0) == 0.001
    assert 0.01 < schedule(last / (last + 1)) < 0.015
    assert schedule(1.0) == pytest.approx(0.01)


def test_cosine_changes_once_an_epoch_at_the_exact_iteration() -> None:
    for max_iter in (97, 1000, 183_250):
        schedule = WarmupCosine(max_iter=max_iter, epochs=7, warmup_iters=0)
        starts = [-(-max_iter * epoch // 7) for epoch in range(8)]
        for epoch, (start, end) in enumerate(zip(starts, starts[1:], strict=False)):
            expected = (1 + math.cos(math.pi * epoch / 7)) / 2
            for iteration in (start, end - 1):
                assert schedule(iteration / max_iter) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_iter": 0}, "max_iter and epochs must be >= 1, got 0 and 25"),
        ({"epochs": 0}, "max_iter and epochs must be >= 1"),
        ({"end_factor": 1.5}, r"end_factor must be in \[0, 1\], got 1.5"),
        ({"warmup_iters": -1}, "warmup_iters must be >= 0"),
    ],
)
def test_cosine_arguments_that_do_not_fit(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmupCosine(**{**LSJ_25, **wrong})
