"""Train every family of detectors in two CPU processes, of which one has no objects.

Started once by ``test_families.py`` for all families.
"""

import torch
import torch.distributed as dist
from conftest import FAMILIES, make_family
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from test_families import make_input
from torch import Tensor, nn

from vit_adapter.engine.parallel import parallelise


def train(family: str) -> None:
    """DDP fails in the second step if the first one has left out a parameter."""
    torch.manual_seed(0)
    model = parallelise(OmegaConf.create({"train": {}}), make_family(family))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    torch.manual_seed(comm.get_rank())
    for with_objects in (0, 1, None):  # the process that has objects
        batch = [make_input(count=2 if comm.get_rank() == with_objects else 0)]
        optimizer.zero_grad()
        with EventStorage():
            sum(model(batch).values()).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        of_first = parameter.detach().clone()
        dist.broadcast(of_first, src=0)
        assert of_first.isfinite().all(), (family, name)
        assert torch.equal(of_first, parameter), (family, name)


def losses_and_gradients(
    model: nn.Module, batch: list[dict[str, object]]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    losses = model(batch)
    parameters = [p for _, p in model.named_parameters()]
    return losses, list(torch.autograd.grad(sum(losses.values()), parameters))


def compare_with_joint_batch(family: str) -> None:
    """The mean over two processes is what one process computes from all images.

    This is how the divisors of ATSS and GFL are defined. (Other families divide by the number of
    regions of each process.)
    """
    torch.manual_seed(0)
    model = make_family(family).double()
    nn.init.zeros_(model.head.cls_score.bias)  # else the divisors would be below 1, their minimum
    images = [make_input(count=count) for count in (2, 0, 1, 2)]
    start = 2 * comm.get_rank()
    losses, gradients = losses_and_gradients(model, images[start : start + 2])
    for value in (*losses.values(), *gradients):
        dist.all_reduce(value.detach())
    world_size, comm.get_world_size = comm.get_world_size, lambda: 1
    expected, joint_gradients = losses_and_gradients(model, images)
    comm.get_world_size = world_size
    for name, loss in losses.items():
        torch.testing.assert_close(loss / 2, expected[name], msg=f"{family}: {name}")
    for ours, joint in zip(gradients, joint_gradients, strict=True):
        torch.testing.assert_close(ours / 2, joint)


def work() -> None:
    for family in FAMILIES:
        train(family)
    for family in ("atss", "gfl"):
        compare_with_joint_batch(family)
