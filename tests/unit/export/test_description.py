"""What is said about the images that an exported file takes, and what they are checked with."""

import pytest
import torch
from small_models import make_segmentor

from vit_adapter.config.loading import load_config
from vit_adapter.export.description import describe
from vit_adapter.export.models import exportable
from vit_adapter.export.random_images import pixel_ranges
from vit_adapter.export.shapes import ImageShapes

CONFIG = "quick_start/upernet_vit_adapter_tiny_scratch"
STORED = [
    "model.input_channels=3",
    "model.pixel_mean=[1846.0,0.5,0.0]",
    "model.pixel_std=[748.0,0.25,1.0]",
]


@pytest.mark.parametrize(
    ("overrides", "stated", "ranges"),
    [
        ([], [0, 255], ((0, 255),) * 3),
        (STORED, "any: the values that are stored", ((350, 3342), (0, 1), (-2, 2))),
    ],
)
def test_range_of_the_pixels(
    overrides: list[str], stated: object, ranges: tuple[tuple[float, float], ...]
) -> None:
    cfg = load_config(CONFIG, overrides)
    core = exportable(make_segmentor())
    for name in ("pixel_mean", "pixel_std"):
        getattr(core.model, name)[:] = torch.tensor(list(cfg.model[name])).view(-1, 1, 1)
    shapes = ImageShapes(1, 64, 64, ranges=pixel_ranges(cfg, core.model))
    assert shapes.ranges == ranges
    described = describe(cfg, core, shapes, file_format="onnx", classes=[])["input"]
    found = described["range"]
    assert found == stated or found.startswith(stated)
