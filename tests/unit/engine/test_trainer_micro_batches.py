"""The training loop: steps on several batches, or on the parts of one."""

import pytest
import torch
from torch import Tensor
from toy_trainer import Recorder, Toy, make_trainer

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.loss_normalization import LossNormalization
from vit_adapter.engine.precision import Precision
from vit_adapter.engine.trainer import Trainer
from vit_adapter.layers.loss_count import loss_divisor


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
