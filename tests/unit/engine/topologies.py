"""Compare the gradients of one step on four images in several topologies, in two CPU processes.

Started by ``test_loss_normalization.py``. The reference is one process that takes all four images
at once. Accumulated micro-batches, two processes, and both together must give the same gradients.
The images have 2, 0, 1 and 2 objects. Topologies of one process are computed in both processes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from conftest import FAMILIES, Patches, make_family
from detection_cases.float64 import keep_float64
from detectron2.config import LazyCall, instantiate
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from test_families import make_input
from timm.layers import DropPath
from torch import Tensor, nn

from vit_adapter import model_zoo
from vit_adapter.engine.loss_normalization import LossNormalization
from vit_adapter.engine.parallel import parallelise
from vit_adapter.layers.image_random import image_seeds

Batch = list[dict[str, object]]
Gradients = dict[str, Tensor]

OBJECTS = (2, 0, 1, 2)
TOLERANCE = 1e-6
DRAWS = {"mask_rcnn", "mask_rcnn_no_fpn", "cascade", "htc", "mask2former", "mask2former_instance"}
"""Families that draw random numbers for an image."""


def make_semantic_fpn() -> DictConfig:
    model = model_zoo.get_config("common/models/semantic_fpn").model
    model.backbone.bottom_up = LazyCall(Patches)(out_features=list(model.backbone.in_features))
    model.backbone.out_channels, model.sem_seg_head.conv_dims = 8, 8
    model.sem_seg_head.update(num_classes=5, norm="LN", dropout=0.0, loss_average="valid")
    return model


def make_upernet() -> DictConfig:
    model = model_zoo.get_config("common/models/upernet").model
    heads = model.sem_seg_head
    for head in (heads.main, heads.auxiliary):
        head.channels = 8
        for shape in head.input_shape.values():
            shape.channels = 32
    heads.main.update(num_classes=5, norm="LN", dropout=0.0, loss_average="valid")
    model.backbone = LazyCall(Patches)(out_features=list(heads.main.input_shape))
    return model


def make_mask2former() -> DictConfig:
    model = model_zoo.get_config("common/models/mask2former").tiny
    shapes = model.head.pixel_decoder.input_shape
    for shape in shapes.values():
        shape.channels = 32
    model.backbone = LazyCall(Patches)(out_features=list(shapes))
    model.head.transformer_decoder.num_classes = 5
    model.head.transformer_decoder.num_queries = 6
    model.criterion.num_points = 64
    return model


SEGMENTORS: dict[str, Callable[[], DictConfig]] = {
    "semantic_fpn": make_semantic_fpn,
    "upernet": make_upernet,
    "mask2former": make_mask2former,
    "mask2former_instance": make_mask2former,
}


def build(family: str) -> nn.Module:
    torch.manual_seed(0)
    model = instantiate(SEGMENTORS[family]()) if family in SEGMENTORS else make_family(family)
    model = model.double().train()
    for module in model.modules():  # these depend on all images of a batch
        if isinstance(module, (nn.BatchNorm2d, DropPath)):
            module.eval()
    return model


def make_images(family: str) -> Batch:
    torch.manual_seed(1)
    images = []
    for index, count in enumerate(OBJECTS):
        image = make_input(count=count) | {"sample_seed": index}
        image["instances"].gt_boxes.tensor = image["instances"].gt_boxes.tensor.double()
        image["sem_seg"][: 20 * (3 - index)] = 255  # the first image has no labels
        if family in ("semantic_fpn", "upernet", "mask2former"):
            del image["instances"]
        images.append(image)
    return images


def run_step(
    model: nn.Module, micro_batches: list[Batch], mode: str, *, seeded: bool = True
) -> Gradients:
    """The gradients of the mean over micro-batches and, if ``model`` is distributed, processes."""

    def forward(batch: Batch) -> dict[str, Tensor]:
        with image_seeds([image["sample_seed"] if seeded else None for image in batch]):
            return model(batch)

    model.zero_grad()
    torch.manual_seed(2)
    normalization = LossNormalization(mode)
    with EventStorage() as storage:
        normalization.prepare(model, micro_batches, forward)
        assert not storage.latest()
        for number, batch in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            with nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
                with normalization.micro_batch():
                    losses = forward(batch)
                (sum(losses.values()) / len(micro_batches)).backward()
    return {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


@contextmanager
def one_process() -> Iterator[None]:
    world_size, comm.get_world_size = comm.get_world_size, lambda: 1
    try:
        yield
    finally:
        comm.get_world_size = world_size


def distance(gradients: Gradients, expected: Gradients) -> float:
    """The largest difference of a parameter, relative to its largest gradient."""
    return max(
        float((gradients[name] - value).abs().max() / value.abs().max().clamp(min=1e-9))
        for name, value in expected.items()
    )


def compare(family: str) -> None:
    images = make_images(family)
    halves = [images[:2], images[2:]]
    mine = halves[comm.get_rank()]
    with one_process():
        model = build(family)
        joint = run_step(model, [images], "global")
        published = run_step(model, [images], "published")
        found = {
            "accumulated": run_step(model, halves, "global"),
            "accumulated one by one": run_step(model, [[image] for image in images], "global"),
        }
        other = {"published": run_step(model, halves, "published")}
        if family in DRAWS:
            other["without seeds"] = run_step(model, halves, "global", seeded=False)
    distributed = parallelise(OmegaConf.create({"train": {}}), model)
    found["two processes"] = run_step(distributed, [mine], "global")
    found["both"] = run_step(distributed, [mine[:1], mine[1:]], "global")
    for name, gradients in found.items():
        assert distance(gradients, joint) < TOLERANCE, (family, name, distance(gradients, joint))
    assert distance(published, joint) < TOLERANCE, f"{family}: one batch is the same in both modes"
    for name, gradients in other.items():
        assert distance(gradients, joint) > 100 * TOLERANCE, (family, name)


def work() -> None:
    keep_float64(pytest.MonkeyPatch())
    for family in [*FAMILIES, *SEGMENTORS]:
        compare(family)
