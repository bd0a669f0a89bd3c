"""Reads the golden cases of the detectors.

They lie in the folder named by ``VIT_ADAPTER_GOLDEN_DETECTION``, by default
``tests/oracle/golden_detection``. Sizes come from the arrays, constants are those of the original's
configs. Parameters have the original's names and go through the converter.
"""

import os
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from omegaconf import DictConfig
from torch import Tensor, nn

from vit_adapter import model_zoo
from vit_adapter.checkpoint import load_strict
from vit_adapter.checkpoint.original import convert_state_dict

FOLDER = Path(
    os.environ.get("VIT_ADAPTER_GOLDEN_DETECTION") or Path(__file__).parents[1] / "golden_detection"
)
Arrays = dict[str, Tensor]


def read(name: str) -> Arrays:
    with np.load(FOLDER / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def check(computed: Tensor, expected: Tensor) -> None:
    """Compare to 1e-9 of the largest magnitude; whole numbers exactly."""
    computed = computed.detach()
    if not expected.is_floating_point():
        assert torch.equal(computed.to(expected.dtype), expected)
        return
    assert computed.dtype == torch.float64
    assert computed.shape == expected.shape
    scale = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(computed, expected, rtol=0, atol=1e-9 * max(scale, 1e-3))


def load_parameters(part: nn.Module, parameters: Arrays, *, theirs: str, ours: str) -> None:
    """Give a part of a model its parameters, which have the original's names.

    Args:
        part: the module that is ``ours`` in a model.
        parameters: without the prefix ``theirs``.
        theirs: name of the part in the original, such as "roi_head".
        ours: name of the part here, such as "roi_heads".
    """
    converted = convert_state_dict({f"{theirs}.{k}": v for k, v in parameters.items()})
    load_strict(part, {k.removeprefix(f"{ours}."): v for k, v in converted.items()})


def check_gradients(part: nn.Module, case: Arrays, prefix: str, *, theirs: str, ours: str) -> None:
    """Compare the gradients of the parameters ``<prefix>.grad.param.<the original's name>``."""
    start = f"{prefix}grad.param."
    expected = {k.removeprefix(start): v for k, v in case.items() if k.startswith(start)}
    assert expected
    converted = convert_state_dict({f"{theirs}.{k}": v for k, v in expected.items()})
    parameters = dict(part.named_parameters())
    for name, gradient in converted.items():
        check(parameters[name.removeprefix(f"{ours}.")].grad, gradient)


def read_features(case: Arrays) -> Arrays:
    levels = sum(name.startswith("in.feat") for name in case)
    return {f"p{i + 2}": case[f"in.feat{i}"].clone().requires_grad_() for i in range(levels)}


def read_sizes(case: Arrays) -> list[tuple[int, int]]:
    return [tuple(size) for size in case["in.img_shape"].tolist()]


def read_images(case: Arrays) -> ImageList:
    """The images' sizes, and a batch without content."""
    sizes = read_sizes(case)
    return ImageList(torch.empty(len(sizes), 3, *case["in.batch_shape"].tolist()), sizes)


def read_targets(case: Arrays) -> list[Instances]:
    targets = []
    for i, size in enumerate(read_sizes(case)):
        truths = Instances(
            size, gt_boxes=Boxes(case[f"in.gt_bboxes{i}"]), gt_classes=case[f"in.gt_labels{i}"]
        )
        if f"in.gt_masks{i}" in case:
            truths.gt_masks = BitMasks(case[f"in.gt_masks{i}"])
        targets.append(truths)
    return targets


def read_proposals(case: Arrays, name: str) -> list[Instances]:
    return [
        Instances(size, proposal_boxes=Boxes(case[f"{name}{i}"]))
        for i, size in enumerate(read_sizes(case))
    ]


def cascade_config(channels: int) -> DictConfig:
    model = model_zoo.get_config("common/models/cascade_mask_rcnn").model
    model.backbone.out_channels = channels
    return model
