"""Reads the golden cases of dense detectors, and builds the models that they describe.

The folder is the one that ``VIT_ADAPTER_GOLDEN_DETECTION`` names, by default ``golden_detection``
beside this file. Sizes come from the shapes of the arrays.
"""

import os
from pathlib import Path

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from vit_adapter.checkpoint.original import Conversion, convert
from vit_adapter.detection import ATSS, GFL, ATSSHead, ClampedBox2BoxTransform, GFLHead
from vit_adapter.detection.dense.detector import AssigningDetector

FOLDER = Path(
    os.environ.get("VIT_ADAPTER_GOLDEN_DETECTION") or Path(__file__).parent / "golden_detection"
)
FIRST_STRIDE = 8
Arrays = dict[str, Tensor]


def read(name: str) -> Arrays:
    """The arrays of a file; floating-point numbers as float64."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def with_prefix(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names start with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def numbered(arrays: Arrays, name: str) -> list[Tensor]:
    """The arrays ``name0``, ``name1``, ..."""
    return [arrays[f"{name}{i}"] for i in range(sum(k[: len(name)] == name for k in arrays))]


class FeatureBackbone(Backbone):
    """Stands for a pyramid whose features are known."""

    size_divisibility = 32

    def __init__(self, features: list[Tensor]) -> None:
        super().__init__()
        self._out_features = [f"p{i + 3}" for i in range(len(features))]
        self.features = features

    def forward(self, images: Tensor) -> Arrays:
        return dict(zip(self._out_features, self.features, strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=feature.shape[1], stride=FIRST_STRIDE * 2**i)
            for i, (name, feature) in enumerate(zip(self._out_features, self.features, strict=True))
        }


def anchor_generator(num_levels: int) -> DefaultAnchorGenerator:
    strides = [FIRST_STRIDE * 2**level for level in range(num_levels)]
    return DefaultAnchorGenerator(
        sizes=[[8 * stride] for stride in strides], aspect_ratios=[1.0], strides=strides, offset=0.0
    )


def convert_head(parameters: Arrays) -> Conversion:
    """Our names of a head's parameters."""
    return convert({f"bbox_head.{name}": value for name, value in parameters.items()})


def build(
    kind: str, features: list[Tensor], dtype: torch.dtype, **changes: object
) -> AssigningDetector:
    """An "atss" or "gfl" with the stored parameters."""
    parameters = read(f"{kind}_params")
    scales = [name for name in parameters if name.startswith("scales.")]
    towers = [w for name, w in parameters.items() if name.startswith("cls_convs.") and w.ndim == 4]
    sizes = {
        "in_channels": features[0].shape[1],
        "num_classes": len(parameters[f"{kind}_cls.bias"]),
        "num_levels": len(scales),
        "conv_dims": [len(weight) for weight in towers],
    }
    shared = {
        "backbone": FeatureBackbone(features),
        "anchor_generator": anchor_generator(len(scales)),
        "num_classes": sizes["num_classes"],
        "pixel_mean": [0.0] * 3,
        "pixel_std": [1.0] * 3,
        **changes,
    }
    if kind == "atss":
        transform = ClampedBox2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
        model = ATSS(head=ATSSHead(**sizes), box2box_transform=transform, **shared)
    else:
        reg_max = len(parameters["gfl_reg.bias"]) // 4 - 1
        model = GFL(head=GFLHead(**sizes, reg_max=reg_max), **shared)
    model.head.load_state_dict(with_prefix(convert_head(parameters).state_dict, "head."))
    return model.to(dtype)


def images(case: Arrays) -> ImageList:
    """The images' sizes; there are no pixels."""
    sizes = [(int(height), int(width)) for height, width in case["in.img_shape"]]
    return ImageList(torch.zeros(len(sizes), 3, 1, 1), sizes)


def instances(case: Arrays, *, empty: bool = False) -> list[Instances]:
    """The ground truth of each image; none if ``empty``."""
    return [
        Instances(
            size,
            gt_boxes=Boxes(case[f"in.gt_bboxes{i}"][: 0 if empty else None]),
            gt_classes=case[f"in.gt_labels{i}"][: 0 if empty else None],
        )
        for i, size in enumerate(images(case).image_sizes)
    ]


def assert_near(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    """Compare relative to the largest magnitude of the expected numbers."""
    largest = expected.abs().max().item() if expected.numel() else 1.0
    torch.testing.assert_close(
        actual.detach().to(expected.dtype),
        expected,
        rtol=0,
        atol=tolerance * (largest or 1.0),
        msg=lambda text: f"{name}: {text}",
    )
