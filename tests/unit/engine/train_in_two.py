"""The training loop in two processes; started by ``test_trainer_processes.py``."""

import torch
from detectron2.utils import comm
from omegaconf import OmegaConf
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from vit_adapter.engine.parallel import parallelise, unwrap
from vit_adapter.engine.precision import Precision
from vit_adapter.engine.trainer import Trainer


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

    def forward(self, batch):
        values = torch.tensor([inputs["value"] for inputs in batch], dtype=torch.float64)
        return {"loss": (self.weight * values - 1).square().mean()}


def images(step, numbers):
    return [{"value": 0.1 * step + number, "file_name": f"{number}.png"} for number in numbers]


def make_trainer(model, accumulate, data):
    trainer = Trainer(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        precision=Precision(enabled=False, dtype="float16", device_type="cpu"),
        accumulate=accumulate,
    )
    trainer.data_loader = data
    return trainer


def check_accumulation(rank):
    exchanges = []

    def count(state, bucket):
        exchanges.append(1)
        return allreduce_hook(state, bucket)

    model = parallelise(OmegaConf.create({"train": {}}), Model())
    model.register_comm_hook(None, count)
    mine = [images(step, range(4 * rank, 4 * rank + 4)) for step in range(3)]
    make_trainer(model, 2, mine).train(0, 3)
    assert len(exchanges) == 3, exchanges  # one for each step, none for its first micro-batch
    alone = Model()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        alone(images(step, range(8)))["loss"].backward()
        optimizer.step()
    torch.testing.assert_close(unwrap(model).weight, alone.weight, rtol=1e-12, atol=0)


def check_non_finite(rank):
    bad = 2  # the step in which the first process alone has a loss that is not finite
    mine = [images(step, [2 * rank, 2 * rank + 1]) for step in range(4)]
    if rank == 0:
        mine[bad][1]["value"] = float("nan")
    weights = []

    class Model2(Model):
        def forward(self, batch):
            weights.append(self.weight.item())
            return super().forward(batch)

    model = parallelise(OmegaConf.create({"train": {}}), Model2())
    trainer = make_trainer(model, 1, mine)
    try:
        trainer.train(0, 4)
    except FloatingPointError as error:
        text = str(error)
    assert "iteration 2" in text and "losses of process 0: loss=nan" in text, text
    assert "0.png, 1.png" in text and "2.png" not in text and "process 1" not in text, text
    assert len(weights) == bad + 1 and unwrap(model).weight.item() == weights[-1]
    losses = trainer.storage.histories()["total_loss"].values()
    assert len(losses) == (bad if rank == 0 else 0)  # the main process records for all
    both = comm.all_gather(mine[0])
    expected = Model()(both[0] + both[1])["loss"].item()
    assert rank or abs(losses[0][0] - expected) < 1e-6


def work():
    rank = comm.get_rank()
    check_accumulation(rank)
    check_non_finite(rank)
