"""Multi-scale testing against a slow, obvious loop."""

import numpy as np
import pytest
import torch
from PIL import Image
from semantic_loops import (
    PositionalModel,
    random_image,
    slow_multi_scale,
)

from vit_adapter.test_time import MultiScaleFlip


@pytest.mark.parametrize("flip", [False, True])
def test_multi_scale_equals_the_slow_loop(flip: bool) -> None:
    model = PositionalModel().eval()
    image = random_image(20, 30)
    wrapped = MultiScaleFlip(model, scales=[0.5, 1.0, 1.75], flip=flip)
    (output,) = wrapped([{"image": image, "height": 41, "width": 59}])
    sizes = [(10, 15), (20, 30), (35, 52)]
    expected = slow_multi_scale(model, image, sizes, flip, (41, 59))
    torch.testing.assert_close(output["sem_seg"], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output["sem_seg"].sum(0), torch.ones(41, 59))


@pytest.mark.parametrize(
    ("size", "views"),
    [
        ((16, 24), [(16, 24), (16, 24), (24, 36)]),
        ((30, 16), [(30, 16), (30, 16), (45, 24)]),
        ((12, 40), [(16, 53), (16, 53), (18, 60)]),  # the mapper's limit on the long side
    ],
)
def test_short_side_never_falls_below_the_crop(size: tuple, views: list) -> None:
    seen = []

    class Recorder(PositionalModel):
        def forward(self, batched_inputs: list[dict]) -> list[dict]:
            seen.append(tuple(batched_inputs[0]["image"].shape[1:]))
            return super().forward(batched_inputs)

    wrapped = MultiScaleFlip(Recorder().eval(), scales=[0.5, 1.0, 1.5], flip=False, min_side=16)
    wrapped([{"image": random_image(*size)}])
    assert seen == views


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        # the longer limit decides, then the shorter one; both are rounded down
        ((20, 100), {"limits": [64, 32]}, (13, 64)),
        ((40, 50), {"limits": [32, 64]}, (32, 40)),
        ((40, 50), {"limits": [64, 33], "scale": 0.75}, (24, 30)),
        # stretched after scaling
        ((40, 50), {"limits": [64, 33], "scale": 0.75, "size_divisor": 16}, (32, 32)),
        # only the shorter side decides
        ((20, 100), {"limits": [64, 32], "min_side": 16}, (32, 160)),
        ((100, 20), {"limits": [64, 32], "min_side": 48}, (240, 48)),
        # at least one pixel
        ((1, 300), {"limits": [64, 32]}, (1, 64)),
    ],
)
def test_sizes_of_views(size: tuple, options: dict, expected: tuple) -> None:
    scale = options.pop("scale", 1.0)
    views = MultiScaleFlip(PositionalModel(), scales=[scale], flip=True, **options)
    assert views.view_sizes(*size) == [expected]


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        # round numbers, half up: 832 * 683 / 512 = 1109.875 and 985 * 683 / 512 = 1313.974...
        ((512, 683), {"short_sides": [832, 896, 985]}, [(832, 1110), (896, 1195), (985, 1314)]),
        ((683, 512), {"short_sides": [832, 896, 985]}, [(1110, 832), (1195, 896), (1314, 985)]),
        ((2, 3), {"short_sides": [5]}, [(5, 8)]),  # 7.5
        ((100, 2000), {"short_sides": [896]}, [(896, 17920)]),  # no limit
        ((512, 683), {"short_sides": [832], "size_divisor": 32}, [(832, 1120)]),
    ],
)
def test_sizes_of_views_with_given_short_sides(size: tuple, options: dict, expected: list) -> None:
    unused = {"limits": [64, 32], "min_side": 48}
    views = MultiScaleFlip(PositionalModel(), flip=True, **options, **unused)
    assert views.view_sizes(*size) == expected


@pytest.mark.parametrize("flip", [False, True])
def test_given_short_sides_equal_the_slow_loop(flip: bool) -> None:
    model = PositionalModel().eval()
    image = random_image(30, 20)
    wrapped = MultiScaleFlip(model, short_sides=[12, 31], flip=flip)
    (output,) = wrapped([{"image": image, "height": 41, "width": 59}])
    expected = slow_multi_scale(model, image, [(18, 12), (47, 31)], flip, (41, 59))
    torch.testing.assert_close(output["sem_seg"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [23, 83])
def test_views_are_those_of_pillow_up_to_rounding(side: int) -> None:
    class Recorder(PositionalModel):
        def forward(self, batched_inputs: list[dict]) -> list[dict]:
            self.seen = batched_inputs[0]["image"]
            return super().forward(batched_inputs)

    image = random_image(40, 60)
    recorder = Recorder().eval()
    MultiScaleFlip(recorder, short_sides=[side], flip=False)([{"image": image}])
    width, height = int(side * 60 / 40 + 0.5), side
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), Image.BILINEAR)
    expected = torch.from_numpy(np.array(pillow)).permute(2, 0, 1).float()
    torch.testing.assert_close(recorder.seen, expected, rtol=0, atol=1.01)


def test_one_scale_with_a_flip() -> None:
    model = PositionalModel().eval()
    image = random_image(20, 30)
    (output,) = MultiScaleFlip(model, scales=[1.0], flip=True)([{"image": image}])
    plain, mirrored = (
        model([{"image": shown, "height": 20, "width": 30}])[0]["sem_seg"].softmax(0)
        for shown in (image, image.flip(-1))
    )
    torch.testing.assert_close(output["sem_seg"], (plain + mirrored.flip(-1)) / 2)
