"""Evaluating an exported file on the data of a config.

Shapes: B batch, C channels, H/W sides of an image.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from vit_adapter.config.errors import UsageError
from vit_adapter.config.own_data import register_test_data
from vit_adapter.config.test_time import loader_for_testing, wrap_for_testing
from vit_adapter.export.formats import Run
from vit_adapter.export.models import ExportableModel
from vit_adapter.export.shapes import ImageShapes
from vit_adapter.mask2former.transformer_decoder import MaskPredictions
from vit_adapter.ops.exporting import exporting

__all__ = ["LARGEST_CHANGE", "FileModel", "check_data", "config_with_data"]

LARGEST_CHANGE = 0.1
"""The largest accepted change of AP, mIoU or PQ, in points (percent)."""

# Metrics of single classes, sizes and thresholds may rest on a few objects.
_MAIN_METRICS = ("AP", "mIoU", "PQ")

logger = logging.getLogger(__name__)


class FileModel(nn.Module):
    """An exported model with the inputs and outputs of a Detectron2 model, for evaluation.

    Each image is padded to the shape that the file accepts, with the mean colour, which is zero
    after normalisation.

    Args:
        core: the model that was exported; only its settings are used.
        run: the exported model.
        shapes: the shapes that it accepts.
    """

    def __init__(self, core: ExportableModel, run: Run, shapes: ImageShapes) -> None:
        super().__init__()
        self.core = core
        self.shapes = shapes
        self._run = run
        self.eval()

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Predict on images, one by one: see the model itself."""
        return [self._predict(inputs) for inputs in batched_inputs]

    def _predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        image = inputs["image"]
        padded = self._pad(image.float().cpu())
        batch = 1 if self.shapes.dynamic_batch else self.shapes.batch
        outputs = self._run(padded.expand(batch, -1, -1, -1).contiguous())
        named = dict(zip(self.core.output_names, (output[0] for output in outputs), strict=True))
        return self._finish(named, inputs, tuple(image.shape[-2:]), tuple(padded.shape[-2:]))

    def _pad(self, image: Tensor) -> Tensor:
        """Pad an image (C, H, W) at the bottom and right to the sides that the file accepts."""
        height, width = image.shape[-2:]
        rows, columns = self.shapes.accepted_size(height, width)
        mean = self.core.model.pixel_mean.cpu()
        return F.pad(image - mean, (0, columns - width, 0, rows - height)) + mean

    def _finish(
        self,
        outputs: Mapping[str, Tensor],
        inputs: Mapping[str, Any],
        size: tuple[int, int],
        padded_size: tuple[int, int],
    ) -> dict[str, Any]:
        """Make what the model returns for one image from the outputs of the file."""
        height, width = int(inputs.get("height", size[0])), int(inputs.get("width", size[1]))
        if "logits" in outputs:
            return {"sem_seg": sem_seg_postprocess(outputs["logits"], size, height, width)}
        if "mask_logits" in outputs:
            batch = MaskPredictions(outputs["class_logits"][None], outputs["mask_logits"][None])
            return self.core.model.segment(batch, [inputs], [size], padded_size)[0]
        count = int(outputs["count"])
        instances = Instances(size, pred_boxes=Boxes(outputs["boxes"][:count]))
        instances.scores, instances.pred_classes = (
            outputs[name][:count] for name in ("scores", "classes")
        )
        if "masks" in outputs:
            instances.pred_masks = outputs["masks"][:count, None]
        return {"instances": detector_postprocess(instances, height, width)}


def config_with_data(cfg: DictConfig) -> DictConfig:
    """Return a copy of a config whose test data are registered, for :func:`check_data`.

    Raises:
        UsageError: the config has no test data or no evaluator.
        FileNotFoundError, ValueError: the data are broken.
    """
    cfg = deepcopy(cfg)
    names = register_test_data(cfg)
    if not names or cfg.dataloader.get("evaluator") is None:
        raise UsageError("the config has no test data or no evaluator; leave out --check-data")
    return cfg


def check_data(cfg: DictConfig, model: nn.Module, file_model: FileModel) -> dict[str, Any]:
    """Evaluate a model and its exported file with the evaluator of the config.

    The model computes as the file does, in float32, also where a frozen ViT usually does not.

    Args:
        cfg: see :func:`config_with_data`.
        model: the model itself.
        file_model: the exported file.

    Returns:
        Task -> metric -> the metric of the model and that of the file.

    Raises:
        UsageError: AP, mIoU or PQ differs by more than ``LARGEST_CHANGE``, or there are no metrics.
    """
    with exporting():
        expected = _evaluate(cfg, model)
    actual = _evaluate(cfg, file_model)
    if not expected:
        raise UsageError("the test data have no labels to compare with; leave out --check-data")
    compared: dict[str, Any] = {}
    for task, metrics in expected.items():
        compared[task] = {name: [value, actual[task][name]] for name, value in metrics.items()}
        for name in _MAIN_METRICS:
            before, after = compared[task].get(name, (0.0, 0.0))
            both_absent = math.isnan(before) and math.isnan(after)
            if not both_absent and not abs(before - after) <= LARGEST_CHANGE:
                raise UsageError(
                    f"{name} of {task} is {after:.2f} with the exported file, but {before:.2f} "
                    f"with the model; expected a difference of at most {LARGEST_CHANGE}"
                )
    return compared


def _evaluate(cfg: DictConfig, model: nn.Module) -> dict[str, dict[str, float]]:
    loader = instantiate(loader_for_testing(cfg))
    evaluator = instantiate(cfg.dataloader.evaluator)
    return inference_on_dataset(wrap_for_testing(cfg, model), loader, evaluator)
