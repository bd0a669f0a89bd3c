"""What the JSON beside an exported file says."""

from collections.abc import Callable, Sequence
from typing import Any

import detectron2
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from vit_adapter import __version__
from vit_adapter.config.input_channels import stored_channels
from vit_adapter.config.test_time import loader_for_testing
from vit_adapter.export.models import ExportableModel
from vit_adapter.export.random_images import EIGHT_BITS
from vit_adapter.export.shapes import LONGEST_SIDE, MULTIPLE, ImageShapes

__all__ = ["describe"]

_AS_STORED = "any: the values that are stored in files like those of the training"


def describe(
    cfg: DictConfig,
    core: ExportableModel,
    shapes: ImageShapes,
    *,
    file_format: str,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Say what goes into an exported model, what comes out, and what it was made with.

    Args:
        cfg: the config of the model.
        core: what was exported.
        shapes: the shapes of images that it accepts.
        file_format: the format of the file.
        classes: the names of the classes, by index; empty if they are not known.
    """
    return {
        "format": file_format,
        "input": _describe_input(cfg, core, shapes),
        "outputs": core.outputs,
        "classes": list(classes),
        "test": OmegaConf.to_container(cfg.get("test") or OmegaConf.create(), resolve=True),
        "versions": {
            "vit_adapter": __version__,
            "torch": torch.__version__,
            "detectron2": detectron2.__version__,
        },
    }


def _describe_input(cfg: DictConfig, core: ExportableModel, shapes: ImageShapes) -> dict[str, Any]:
    mean, std = core.model.pixel_mean, core.model.pixel_std
    padding = "none: the graph pads the images as the model does"
    if shapes.dynamic_size:
        padding = (
            f"sides must be multiples of {MULTIPLE} from {shapes.shortest_side} to {LONGEST_SIDE}: "
            "fill the image with pixel_mean at the bottom and right, and cut the outputs to the "
            "image"
        )
    return {
        "name": "images",
        "shape": shapes.described(),
        "dtype": "float32",
        "range": list(EIGHT_BITS) if stored_channels(cfg) is None else _AS_STORED,
        "channels": str(cfg.dataloader.test.mapper.image_format),
        "pixel_mean": mean.flatten().tolist(),
        "pixel_std": std.flatten().tolist(),
        "normalisation": "in the graph; do not normalise the images yourself",
        "resize": _plain(loader_for_testing(cfg).mapper.augmentations),
        "padding": padding,
    }


def _plain(node: object) -> object:
    """A part of a config as plain data, in which "name" says what is called."""
    if isinstance(node, ListConfig):
        return [_plain(part) for part in node]
    if isinstance(node, DictConfig):
        plain = {key: _plain(part) for key, part in node.items() if key != "_target_"}
        return {"name": _name(node._target_), **plain} if "_target_" in node else plain
    return node if isinstance(node, str | int | float | bool | None) else str(node)


def _name(target: str | Callable[..., Any]) -> str:
    """The name of a function or class that a config calls."""
    return target.rpartition(".")[2] if isinstance(target, str) else target.__qualname__
