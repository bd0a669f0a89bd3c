"""Counting over a step, and gradients that do not depend on the topology."""

from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage, get_event_storage
from forked import run_group
from omegaconf import OmegaConf
from torch import Tensor, nn

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.loss_normalization import LossNormalization
from vit_adapter.layers.loss_count import loss_divisor

TESTS = Path(__file__).parents[2]


class Mean(nn.Module):
    """The mean of positive numbers, with everything that a forward pass may leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.drawn: list[float] = []

    def forward(self, batch: list[float]) -> Tensor:
        values = torch.tensor(batch)
        self.norm(values[:, None])
        self.drawn.append(torch.rand(()).item())
        get_event_storage().put_scalar("size", len(batch))
        return values.relu().sum() / loss_divisor((values > 0).sum())


BATCHES = [[1.0, -1.0, -1.0], [2.0, 3.0, 6.0]]


def losses(mode: str, model: Mean) -> list[Tensor]:
    normalization = LossNormalization(mode)
    normalization.prepare(model, BATCHES, model)
    results = []
    for batch in BATCHES:
        with normalization.micro_batch():
            results.append(model(batch))
    return results


def test_the_mean_over_all_micro_batches() -> None:
    with EventStorage():
        assert sum(losses("global", Mean())) / 2 == 3  # of 1, 2, 3 and 6
        assert sum(losses("published", Mean())) / 2 == pytest.approx((1 + 11 / 3) / 2)


def test_counting_leaves_no_traces() -> None:
    models = {}
    for mode in ("global", "published"):
        models[mode] = Mean()
        torch.manual_seed(0)
        with EventStorage() as storage:
            losses(mode, models[mode])
        assert len(storage.history("size").values()) == len(BATCHES)
    torch.testing.assert_close(models["global"].state_dict(), models["published"].state_dict())
    assert models["global"].drawn == 2 * models["published"].drawn


def test_one_micro_batch_is_not_run_twice() -> None:
    model = Mean()
    with EventStorage():
        LossNormalization("global").prepare(model, BATCHES[:1], model)
    assert not model.drawn


def test_config() -> None:
    assert LossNormalization.from_config(OmegaConf.create({"train": {}})).mode == "published"
    cfg = OmegaConf.create({"train": {"loss_normalization": "local"}})
    with pytest.raises(UsageError, match="'local' is unknown; expected published or global"):
        LossNormalization.from_config(cfg)


@pytest.mark.slow
def test_gradients_do_not_depend_on_the_topology() -> None:
    """See the program."""
    folders = [TESTS / "unit/detection", TESTS / "oracle"]
    run_group(Path(__file__).with_name("topologies.py"), folders=folders)
