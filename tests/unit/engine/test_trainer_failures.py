"""The training loop: losses that are not finite, and errors of the model."""

import math

import pytest
import torch
from toy_trainer import Recorder, make_trainer


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


def test_error_of_the_model_names_the_images_too() -> None:
    trainer = make_trainer(["raise"])
    with pytest.raises(FloatingPointError, match=r"(?s)contain NaN.*iteration 0.*image_0\.png"):
        trainer.train(0, 1)
