"""The training loop, on a model with a single number."""

import logging
import math
from collections.abc import Iterator

import pytest
import torch
from detectron2.engine import HookBase, hooks
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import Tensor, nn

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.loss_normalization import LossNormalization
from vit_adapter.engine.precision import Precision
from vit_adapter.engine.trainer import Trainer
from vit_adapter.layers.image_random import random_numbers_of
from vit_adapter.layers.loss_count import loss_divisor


class Toy(nn.Module):
    """Two losses of a batch of numbers; remembers the dtype it computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.dtypes: list[torch.dtype] = []
        self.drawn: list[list[float]] = []

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        if any(inputs["value"] == "raise" for inputs in batch):
            raise FloatingPointError("Predicted boxes contain NaN.")
        values = torch.tensor([[inputs["value"]] for inputs in batch])
        output = self.linear(values)
        self.dtypes.append(output.dtype)
        self.drawn.append([])
        for image in range(len(batch)):
            with random_numbers_of(image, output.device):
                self.drawn[-1].append(torch.rand(()).item())
        return {"loss_a": output.float().pow(2).mean(), "loss_b": output.float().abs().mean()}


def batches(values: list) -> Iterator[list[dict]]:
    for index, value in enumerate(values):
        yield [{"value": value, "file_name": f"image_{index}.png"}]


def make_trainer(values: list, accumulate: int = 1, **precision: object) -> Trainer:
    torch.manual_seed(0)
    model = Toy()
    options = {"enabled": False, "dtype": "float16", "device_type": "cpu"} | precision
    trainer = Trainer(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.125),
        precision=Precision(**options),
        accumulate=accumulate,
    )
    trainer.data_loader = batches(values)
    return trainer


class Recorder(HookBase):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.latest: dict[str, tuple[float, int]] = {}

    def before_train(self) -> None:
        self.calls.append("before_train")

    def after_step(self) -> None:
        self.calls.append(f"step {self.trainer.iter}")
        self.latest = dict(self.trainer.storage.latest())

    def after_train(self) -> None:
        self.calls.append(f"after_train failed={self.trainer.failed}")


def test_iterations_and_recorded_losses() -> None:
    trainer, recorder = make_trainer([1.0, 2.0, 3.0]), Recorder()
    trainer.register_hooks([recorder])
    before = trainer.model.linear.weight.item()
    trainer.train(5, 8)
    assert recorder.calls == [
        "before_train",
        "step 5",
        "step 6",
        "step 7",
        "after_train failed=False",
    ]
    assert trainer.iter == 8
    assert trainer.model.linear.weight.item() != before
    losses = {name: value for name, (value, _) in recorder.latest.items() if "loss" in name}
    assert losses["total_loss"] == pytest.approx(losses["loss_a"] + losses["loss_b"])
    assert "data_time" in recorder.latest


def test_losses_of_any_scalar_shape_and_dtype_are_recorded(device: torch.device) -> None:
    class Losses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0, device=device))

        def forward(self, batch: list[dict]) -> dict[str, Tensor]:
            one = self.weight * self.weight.new_ones(1)  # (1,)
            return {"row": one, "narrow": self.weight.bfloat16(), "constant": torch.tensor(0.5)}

    trainer, recorder = make_trainer([1.0]), Recorder()
    trainer.model = Losses()
    trainer.register_hooks([recorder])
    trainer.train(0, 1)
    recorded = {name: value for name, (value, _) in recorder.latest.items()}
    assert (recorded["row"], recorded["narrow"], recorded["constant"]) == (2.0, 2.0, 0.5)
    assert recorded["total_loss"] == 4.5


def test_step_is_plain_gradient_descent() -> None:
    trainer = make_trainer([2.0])
    reference = Toy()
    reference.load_state_dict(trainer.model.state_dict())
    trainer.train(0, 1)
    sum(reference([{"value": 2.0}]).values()).backward()
    expected = reference.linear.weight - 0.125 * reference.linear.weight.grad
    torch.testing.assert_close(trainer.model.linear.weight, expected)


def test_hooks_may_change_gradients_before_the_step() -> None:
    class Clip(HookBase):
        def after_backward(self) -> None:
            nn.utils.clip_grad_value_(self.trainer.model.parameters(), 0.5)

    trainer = make_trainer([2.0])
    before = trainer.model.linear.weight.item()
    trainer.register_hooks([Recorder(), Clip()])  # not every hook has the method
    trainer.train(0, 1)
    assert abs(trainer.model.linear.weight.item() - before) == 0.125 * 0.5


def test_hooks_see_gradients_without_the_loss_scale() -> None:
    seen = []

    class Look(HookBase):
        def after_backward(self) -> None:
            seen.append(self.trainer.model.linear.weight.grad.item())

    plain, scaled = make_trainer([2.0]), make_trainer([2.0])
    scaled.model.load_state_dict(plain.model.state_dict())
    scaled.precision.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for trainer in (plain, scaled):
        trainer.register_hooks([Look()])
        trainer.train(0, 1)
    assert seen[0] == seen[1] != 0
    assert plain.model.linear.weight.equal(scaled.model.linear.weight)


def test_micro_batches_are_consecutive_and_of_the_same_size() -> None:
    batch = [{"value": float(number)} for number in range(6)]
    trainer = make_trainer([], accumulate=3)
    assert trainer.split(batch) == [batch[:2], batch[2:4], batch[4:]]
    assert make_trainer([]).split(batch) == [batch]
    with pytest.raises(UsageError, match=r"returned 5 images.*train\.accumulate=3.*of 3 images"):
        trainer.split(batch[:5])


def test_recorded_losses_are_the_mean_over_micro_batches() -> None:
    images = [{"value": 1.0}, {"value": 3.0}]
    trainer, recorder = make_trainer([], accumulate=2), Recorder()
    expected = [trainer.model([image])["loss_a"].item() for image in images]
    trainer.data_loader = [images]
    trainer.register_hooks([recorder])
    trainer.train(0, 1)
    assert recorder.latest["loss_a"][0] == pytest.approx(sum(expected) / 2)
    assert recorder.calls.count("step 0") == 1


def test_random_numbers_of_an_image_follow_from_its_seed() -> None:
    images = [{"value": 1.0, "sample_seed": seed} for seed in (1, 2, 1, None)]
    trainer = make_trainer([], accumulate=2)
    trainer.data_loader = [images]
    trainer.train(0, 1)
    (first, second), (again, without) = trainer.model.drawn
    assert first == again
    assert len({first, second, without}) == 3


def test_losses_over_all_micro_batches() -> None:
    """The model is run twice, with the same random numbers, and gets the counts of both batches."""

    class Positive(Toy):
        def forward(self, batch: list[dict]) -> dict[str, Tensor]:
            losses = super().forward(batch)
            count = torch.tensor(sum(inputs["value"] > 0 for inputs in batch))
            return {"loss": len(batch) * losses["loss_a"] / loss_divisor(count)}

    images = [{"value": value} for value in (1.0, -2.0, 3.0, 4.0)]
    weights = {}
    for mode in ("global", "published"):
        for accumulate in (1, 2):
            torch.manual_seed(0)
            model = Positive()
            trainer = Trainer(
                model=model,
                optimizer=torch.optim.SGD(model.parameters(), lr=0.125),
                precision=Precision(enabled=False, dtype="float16", device_type="cpu"),
                accumulate=accumulate,
                loss_normalization=LossNormalization(mode),
            )
            trainer.data_loader = [images]
            trainer.train(0, 1)
            weights[mode, accumulate] = model.linear.weight.item()
            runs = 2 if (mode, accumulate) == ("global", 2) else 1
            assert len(model.drawn) == runs * accumulate
            assert model.drawn == runs * model.drawn[-accumulate:]
    assert weights["global", 2] == pytest.approx(weights["global", 1], rel=1e-6)
    assert weights["published", 1] == weights["global", 1]
    assert weights["published", 2] != pytest.approx(weights["global", 1], rel=1e-3)


def test_phases_can_be_combined_differently() -> None:
    """The gradients of two batches are used in one step."""

    class Accumulating(Trainer):
        def run_step(self) -> None:
            for _ in range(2):
                batch, _ = self.next_batch()
                self.backward(self.forward(batch))
            self.step()

    trainer = make_trainer([1.0, 2.0])
    reference = Toy()
    reference.load_state_dict(trainer.model.state_dict())
    accumulating = Accumulating(
        model=trainer.model, optimizer=trainer.optimizer, precision=trainer.precision
    )
    accumulating.data_loader = trainer.data_loader
    accumulating.train(0, 1)
    for value in (1.0, 2.0):
        sum(reference([{"value": value}]).values()).backward()
    expected = reference.linear.weight - 0.125 * reference.linear.weight.grad
    torch.testing.assert_close(trainer.model.linear.weight, expected)
    assert trainer.model.linear.weight.grad is None


def test_data_workers_end_before_the_last_evaluation() -> None:
    events = []

    class Loader:
        def __iter__(self) -> Iterator[list[dict]]:
            try:
                yield from batches([1.0] * 9)
            finally:
                events.append("workers ended")

    class Evaluation(HookBase):
        def after_train(self) -> None:
            events.append("evaluation")

    trainer = make_trainer([])
    trainer.data_loader = Loader()
    trainer.register_hooks([Evaluation()])
    trainer.train(0, 2)
    assert events == ["workers ended", "evaluation"]


def test_finished_run_reads_no_data(caplog: pytest.LogCaptureFixture) -> None:
    trainer, recorder = make_trainer([]), Recorder()
    trainer.register_hooks([recorder])
    with caplog.at_level(logging.INFO):
        trainer.train(3, 3)
    assert recorder.calls == ["before_train", "after_train failed=False"]
    assert "already at iteration 3 of 3, so it is only evaluated" in caplog.text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_names_everything_and_changes_nothing(value: float) -> None:
    trainer, recorder = make_trainer([1.0, value]), Recorder()
    trainer.register_hooks([recorder])
    with pytest.raises(FloatingPointError) as caught:
        trainer.train(10, 12)
    message = str(caught.value)
    for part in (
        "iteration 11",
        "learning rate: 0.125",
        "loss_a=",
        "loss_b=",
        "image_1.png",
        "Lower optimizer.lr",
        "--resume",
    ):
        assert part in message
    assert "image_0.png" not in message
    assert recorder.calls[-1] == "after_train failed=True"
    assert torch.isfinite(trainer.model.linear.weight).all()


def test_non_finite_loss_of_a_micro_batch_names_its_images() -> None:
    images = [{"value": 1.0, "file_name": "good.png"}, {"value": math.nan, "file_name": "bad.png"}]
    trainer = make_trainer([], accumulate=2)
    before = trainer.model.linear.weight.item()
    for batch in (images, images[::-1]):
        trainer.data_loader, trainer._batches = [batch], None
        with pytest.raises(FloatingPointError, match=r"bad\.png") as caught:
            trainer.train(0, 1)
        assert "good.png" not in str(caught.value)
        assert trainer.model.linear.weight.item() == before


def test_steps_before_a_non_finite_loss_are_recorded() -> None:
    trainer = make_trainer([1.0, 2.0, math.nan])
    with pytest.raises(FloatingPointError):
        trainer.train(0, 3)
    assert [step for _, step in trainer.storage.history("total_loss").values()] == [0, 1]


def test_every_iteration_is_recorded_when_it_is_time_to_log() -> None:
    values = [1.0, 2.0, 0.5, 4.0, 3.0]
    known: list[int] = []

    class Look(HookBase):
        def after_step(self) -> None:
            histories = self.trainer.storage.histories()
            losses = histories["total_loss"].values() if "total_loss" in histories else []
            known.append(len(losses))
            assert self.trainer.storage.iter == self.trainer.iter

    trainer, often = make_trainer(values), make_trainer(values)
    trainer.log_period, often.log_period = 2, 1
    trainer.register_hooks([Look()])
    trainer.train(0, 5)
    often.train(0, 5)
    assert known == [0, 2, 2, 4, 5]
    for name in ("loss_a", "loss_b", "total_loss"):
        history = trainer.storage.history(name).values()
        assert history == often.storage.history(name).values()
        assert [step for _, step in history] == [0, 1, 2, 3, 4]


def test_error_of_the_model_names_the_images_too() -> None:
    trainer = make_trainer(["raise"])
    with pytest.raises(FloatingPointError, match=r"(?s)contain NaN.*iteration 0.*image_0\.png"):
        trainer.train(0, 1)


def test_state_is_restored() -> None:
    first = make_trainer([1.0, 2.0])
    first.optimizer = torch.optim.AdamW(first.model.parameters())
    first.train(0, 2)
    state = first.state_dict()
    second = make_trainer([])
    second.optimizer = torch.optim.AdamW(second.model.parameters())
    second.load_state_dict(state)
    assert second.iter == first.iter
    assert (make_trainer([]).start_iter, second.start_iter) == (0, first.iter + 1)
    steps = [entry["step"] for entry in second.optimizer.state_dict()["state"].values()]
    assert steps == [2, 2]


def test_resuming_uses_the_learning_rate_and_decay_of_the_config() -> None:
    def make(values: list, lr: float) -> Trainer:
        trainer = make_trainer(values)
        options = {"lr": lr, "weight_decay": lr}
        trainer.optimizer = torch.optim.AdamW(trainer.model.parameters(), **options)
        trainer.register_hooks([hooks.LRScheduler(scheduler=LinearParamScheduler(0.5, 0.5))])
        return trainer

    first = make([1.0, 2.0], lr=0.5)
    first.train(0, 2)
    second = make([1.0], lr=0.25)
    second.load_state_dict(first.state_dict())
    second.train(2, 3)
    assert second.storage.latest()["lr"] == (0.5 * 0.25, 2)
    assert second.optimizer.param_groups[0]["weight_decay"] == 0.25


@pytest.mark.parametrize("state", [{"iteration": 3}, {"optimizer": {}}, {}, 5, None])
def test_state_of_another_program(state: object) -> None:
    trainer = make_trainer([])
    with pytest.raises(
        UsageError, match="only weights, or another program wrote.*train.init_checkpoint"
    ):
        trainer.load_state_dict(state)


@pytest.mark.parametrize("named", [True, False])
def test_state_of_an_optimizer_for_other_parameters(named: bool) -> None:
    first = make_trainer([1.0, 2.0])
    first.train(0, 2)
    state = first.state_dict()
    if not named:  # as stored by older versions
        del state["optimizer_description"]
    trainer = make_trainer([])
    trainer.optimizer = torch.optim.SGD([trainer.model.linear.weight], lr=0.125)
    trainer.iter = 7
    with pytest.raises(UsageError, match="does not fit this run's.*train.freeze"):
        trainer.load_state_dict(state)
    assert trainer.iter == 7
    assert trainer.optimizer.state_dict()["state"] == {}


def test_bfloat16_on_the_cpu() -> None:
    trainer = make_trainer([1.0], enabled=True, dtype="bfloat16")
    trainer.train(0, 1)
    assert trainer.model.dtypes == [torch.bfloat16]
    assert trainer.model.linear.weight.dtype == torch.float32
    assert not trainer.precision.scaler.is_enabled()
