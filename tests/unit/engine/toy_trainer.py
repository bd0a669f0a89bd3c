"""A trainer of a model with a single number, for the tests of the training loop."""

from collections.abc import Iterator

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from vit_adapter.engine.precision import Precision
from vit_adapter.engine.trainer import Trainer
from vit_adapter.layers.image_random import random_numbers_of


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
