"""The training loop: its state, which a resumed run loads."""

import pytest
import torch
from detectron2.engine import hooks
from fvcore.common.param_scheduler import LinearParamScheduler
from toy_trainer import make_trainer

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.trainer import Trainer


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
