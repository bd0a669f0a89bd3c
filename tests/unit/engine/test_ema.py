"""The moving average of the weights, against a slow loop in float64."""

import copy
import logging

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.ema import WeightAverage, build_average, restore_average

DECAY = 0.8


def make_model() -> nn.Module:
    """Two trained layers with a batch norm between them, after a frozen one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    model[0].requires_grad_(False)
    return model


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[dict]:
    """Train; return the state of the model after each step."""
    states = []
    for step in steps:
        inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
        model(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        states.append(copy.deepcopy(model.state_dict()))
    return states


def make_run(model: nn.Module) -> tuple[torch.optim.Optimizer, WeightAverage]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9)
    average = WeightAverage(model, DECAY)
    average.follow(optimizer)
    return optimizer, average


def test_average_equals_a_slow_loop() -> None:
    model = make_model()
    start = copy.deepcopy(model.state_dict())
    optimizer, average = make_run(model)
    states = take_steps(model, optimizer, range(7))
    result = average.state_dict()
    assert set(result) == {name for name in start if not name.startswith("0.")}
    for name, value in result.items():
        expected = start[name].double()
        for state in states:
            expected = DECAY * expected + (1 - DECAY) * state[name].double()
        if name == "2.num_batches_tracked":
            expected = torch.tensor(7.0, dtype=torch.float64)  # copied
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(result["2.running_var"], states[-1]["2.running_var"])


def test_every_dtype_is_averaged() -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).bfloat16()])
    average = WeightAverage(model, 0.5)
    start = copy.deepcopy(average.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    average.update()
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value, start[name] + 0.5, rtol=0.02, atol=0.02)


def test_a_shared_weight_has_one_average_and_all_its_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    average = WeightAverage(model, 0.5)
    model[0].weight.data.add_(2)
    average.update()
    state = average.state_dict()
    assert state["0.weight"] is state["1.weight"]
    torch.testing.assert_close(state["0.weight"], model[0].weight.detach() - 1)


def test_a_step_that_the_scaler_skips_does_not_count() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = WeightAverage(model, DECAY)
    average.follow(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    counts = []
    average.update = lambda: counts.append(1)
    for factor, expected in ((1.0, 1), (float("inf"), 1), (1.0, 2)):
        scaler.scale(model(torch.ones(1, 2)).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert len(counts) == expected


def test_the_average_is_applied_and_taken_back() -> None:
    model = make_model()
    optimizer, average = make_run(model)
    take_steps(model, optimizer, range(3))
    weights, averages = copy.deepcopy(model.state_dict()), copy.deepcopy(average.state_dict())
    with pytest.raises(KeyboardInterrupt), average.applied():
        applied = copy.deepcopy(model.state_dict())
        raise KeyboardInterrupt
    assert_equal(applied, {**weights, **averages})
    assert_equal(model.state_dict(), weights)
    assert_equal(average.state_dict(), averages)


def test_a_resumed_average_equals_the_unbroken_one() -> None:
    model = make_model()
    optimizer, average = make_run(model)
    take_steps(model, optimizer, range(3))
    stored = copy.deepcopy([part.state_dict() for part in (model, optimizer, average)])
    take_steps(model, optimizer, range(3, 6))
    resumed_model = make_model()
    resumed_model.load_state_dict(stored[0])
    resumed_optimizer, resumed = make_run(resumed_model)
    resumed_optimizer.load_state_dict(stored[1])
    restore_average(resumed, {"model_ema": stored[2]})
    take_steps(resumed_model, resumed_optimizer, range(3, 6))
    assert_equal(resumed.state_dict(), average.state_dict())


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert set(first) == set(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("change", ["missing", "additional", "misshapen"])
def test_the_average_of_another_model_is_refused(change: str) -> None:
    average = WeightAverage(nn.Linear(2, 2), DECAY)
    before = copy.deepcopy(average.state_dict())
    state = {name: value + 1 for name, value in before.items()}
    if change == "missing":
        del state["bias"]
    else:
        state["bias" if change == "misshapen" else "more"] = torch.zeros(3)
    name = "more" if change == "additional" else "bias"
    with pytest.raises(UsageError, match=rf"for 1 tensors \({name}\)"):
        average.load_state_dict(state)
    assert_equal(average.state_dict(), before)


def make_config(**options: object) -> DictConfig:
    return OmegaConf.create({"train": {"model_ema": options} if options else {}})


def test_the_config_decides() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for options in ({}, {"enabled": False, "decay": 0.9}):
        assert build_average(make_config(**options), model, optimizer) is None
    average = build_average(make_config(enabled=True, decay=0.75), model, optimizer)
    model.weight.data.zero_()
    model.bias.data.zero_()
    average.load_state_dict({name: torch.ones_like(v) for name, v in model.state_dict().items()})
    model(torch.zeros(1, 2)).sum().backward()
    optimizer.step()  # the bias becomes -1
    assert average.state_dict()["weight"].unique().tolist() == [0.75]
    assert average.state_dict()["bias"].unique().tolist() == [0.5]


@pytest.mark.parametrize("decay", [1.0, -0.1, "high", float("nan")])
def test_decay_out_of_range(decay: object) -> None:
    with pytest.raises(UsageError, match=r"train.model_ema.decay=.*expected a number from 0"):
        WeightAverage(nn.Linear(1, 1), decay)


def test_resuming_without_an_average(caplog: pytest.LogCaptureFixture) -> None:
    average = WeightAverage(nn.Linear(1, 1), DECAY)
    with pytest.raises(UsageError, match="Resume with train.model_ema.enabled=False"):
        restore_average(average, {"trainer": {}})
    with caplog.at_level(logging.WARNING):
        restore_average(None, {"trainer": {}})
        assert not caplog.text
        restore_average(None, {"model_ema": average.state_dict()})
    assert "which this run does not continue" in caplog.text
