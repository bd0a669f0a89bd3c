"""Models of configs, and the inputs that they are measured with."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, Instances
from omegaconf import OmegaConf
from torch import nn

from vit_adapter import model_zoo
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.config.errors import UsageError
from vit_adapter.config.input_channels import stored_channels
from vit_adapter.config.loading import load_config
from vit_adapter.config.model import build_model
from vit_adapter.config.unstated_task import fill_in_task
from vit_adapter.config.weights import base_weights

__all__ = ["Subject", "build_subject", "find_baselines", "make_inputs"]

NUM_OBJECTS = 10  # of a training image
_COLOURS = 3  # channels of images that are not read as stored
# Added to the logit of a class, so that random weights are sure of it.
_CERTAIN = 10.0


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        name: the config as given.
        model: on its device.
        num_channels: of the images.
        num_classes: labels of training images are smaller.
    """

    name: str
    model: nn.Module
    num_channels: int
    num_classes: int

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device


def build_subject(
    config: str, *, weights: str | None = None, overrides: Sequence[str] = ()
) -> Subject:
    """Build the model of a config, without the wrappers of its ``test`` node.

    Weights are random unless the config or the caller names a checkpoint. With random weights, the
    classifiers of two-stage detectors are made sure of one class: otherwise no region would reach
    the score threshold, and the mask head would have nothing to do.

    Args:
        config: path, name in the model zoo, or output folder of a training run.
        weights: checkpoint of the whole model; by default ``train.init_checkpoint``.
        overrides: ``"key=value"`` strings.

    Raises:
        UsageError: the config or an override cannot be used, or the model has no backbone.
        vit_adapter.checkpoint.CheckpointMismatchError: the weights do not fit the model.
    """
    cfg = load_config(config, overrides)
    fill_in_task(cfg)
    torch.manual_seed(0)
    model = build_model(cfg)
    if not isinstance(getattr(model, "backbone", None), nn.Module):
        raise UsageError(
            f"{config}: {type(model).__qualname__} has no module named backbone; expected a model "
            "of this project"
        )
    path = weights or OmegaConf.select(cfg, "train.init_checkpoint", default="")
    if path:
        allow = OmegaConf.select(cfg, "train.allow_mismatch", default=())
        loader = Checkpointer(model, allow_mismatch=allow, base=base_weights(cfg))
        loader.load(os.fspath(path))
    else:
        _make_certain(model)
    classes = OmegaConf.select(cfg, OmegaConf.select(cfg, "task.num_classes"))
    return Subject(config, model, stored_channels(cfg) or _COLOURS, int(classes))


def _make_certain(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, FastRCNNOutputLayers):
            with torch.no_grad():
                module.cls_score.bias[0] += _CERTAIN


def find_baselines(config: str) -> list[str]:
    """Return the plain ViT and the ViTDet of the model zoo that belong to an adapter's config."""
    names = set(model_zoo.list_configs())
    if "_vit_adapter_" not in config or config not in names:
        return []
    candidates = (config.replace("_vit_adapter_", f"_{kind}_") for kind in ("vit", "vitdet"))
    return [name for name in candidates if name in names]


def make_inputs(
    batch_size: int,
    size: tuple[int, int],
    *,
    num_channels: int,
    num_classes: int,
    training: bool,
) -> list[Mapping[str, Any]]:
    """Make a batch of random images, with random labels of every kind for training.

    Args:
        batch_size: number of images.
        size: (height, width) of each.
        num_channels: of each.
        num_classes: labels are smaller.
        training: whether they have labels: ``instances`` with boxes and masks, and ``sem_seg``.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = size
    batch: list[Mapping[str, Any]] = []
    for _ in range(batch_size):
        shape = (num_channels, height, width)
        image = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        inputs: dict[str, Any] = {"image": image, "height": height, "width": width}
        if training:
            inputs["instances"] = _make_instances(size, num_classes, generator)
            labels = torch.randint(
                num_classes, (height // 8 + 1, width // 8 + 1), generator=generator
            )
            blocks = labels.repeat_interleave(8, 0).repeat_interleave(8, 1)
            inputs["sem_seg"] = blocks[:height, :width].contiguous()
        batch.append(inputs)
    return batch


def _make_instances(
    size: tuple[int, int], num_classes: int, generator: torch.Generator
) -> Instances:
    """Make objects whose masks fill their boxes, which have sides of 1/16 to 1/2 of the image."""
    height, width = size
    scale = torch.tensor([width, height])
    sides = torch.rand(NUM_OBJECTS, 2, generator=generator) * 7 / 16 + 1 / 16
    corners = torch.rand(NUM_OBJECTS, 2, generator=generator) * (1 - sides)
    boxes = torch.cat([corners * scale, (corners + sides) * scale], 1)
    masks = torch.zeros(NUM_OBJECTS, height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
    instances = Instances(size, gt_boxes=Boxes(boxes), gt_masks=BitMasks(masks))
    instances.gt_classes = torch.randint(num_classes, (NUM_OBJECTS,), generator=generator)
    return instances
