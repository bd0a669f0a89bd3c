"""Sliding windows and multi-scale testing against slow, obvious loops."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from detectron2.export import TracingAdapter
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vit_adapter.test_time import MultiScaleFlip, SlidingWindow

CLASSES = 3


class PositionalModel(nn.Module):
    """Scores that depend on each pixel, its position in the image and the image as a whole."""

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        return [{"sem_seg": self.scores(**inputs)} for inputs in batched_inputs]

    def scores(self, image: Tensor, height: int, width: int) -> Tensor:
        image = image.to(torch.promote_types(image.dtype, torch.float32))
        rows = torch.arange(image.shape[1])[:, None] / image.shape[1]
        columns = torch.arange(image.shape[2]) / image.shape[2]
        scores = image / 64 + torch.stack([rows + 0 * columns, columns + 0 * rows, rows * columns])
        return resized(scores - image.mean() / 99, (height, width))


def resized(image: Tensor, size: tuple[int, int], **options: bool) -> Tensor:
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, **options)[0]


def random_image(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def slow_starts(length: int, crop: int, stride: int) -> Iterator[int]:
    """Advance by the stride until a window would reach the end, and end with one that does."""
    start = 0
    while start + crop < length:
        yield start
        start += stride
    yield max(length - crop, 0)


def slow_sliding_window(model: nn.Module, image: Tensor, crop: list, stride: list) -> Tensor:
    """List the scores of all windows for every pixel, then average them."""
    height, width = image.shape[1:]
    scored = [[[] for _ in range(width)] for _ in range(height)]
    for top in slow_starts(height, crop[0], stride[0]):
        for left in slow_starts(width, crop[1], stride[1]):
            window = image[:, top : top + crop[0], left : left + crop[1]]
            h, w = window.shape[1:]
            scores = model([{"image": window, "height": h, "width": w}])[0]["sem_seg"]
            for y in range(h):
                for x in range(w):
                    scored[top + y][left + x].append(scores[:, y, x])
    means = [[torch.stack(cell).mean(0) for cell in row] for row in scored]
    return torch.stack([torch.stack(row, dim=1) for row in means], dim=1)


@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((20, 33), [8, 8], [5, 5]),
        ((20, 33), [8, 11], [8, 4]),
        ((16, 16), [8, 8], [8, 8]),  # no overlap
        ((17, 9), [8, 8], [8, 8]),  # the last window is moved back by all but one pixel
        ((8, 8), [8, 8], [3, 3]),  # one window
        ((8, 30), [12, 12], [7, 7]),  # a side shorter than the crop
        ((5, 6), [12, 12], [7, 7]),  # the crop is larger than the image
    ],
)
def test_sliding_window_equals_the_slow_loop(size: tuple, crop: list, stride: list) -> None:
    model = PositionalModel().eval()
    image = random_image(*size)
    wrapped = SlidingWindow(model, crop_size=crop, stride=stride)
    (output,) = wrapped([{"image": image}])
    torch.testing.assert_close(
        output["sem_seg"], slow_sliding_window(model, image, crop, stride), rtol=1e-5, atol=1e-5
    )


def test_windows_are_those_of_the_original() -> None:
    """Starts of 512-pixel windows with a step of 341, worked out by hand."""
    seen = []

    def model(batch: list[dict]) -> list[dict]:
        image = batch[0]["image"]
        seen.append((int(image[0, 0, 0]), int(image[1, 0, 0]), tuple(image.shape[1:])))
        return [{"sem_seg": image[:1]}]

    module = nn.Module()
    module.forward = model
    ys, xs = torch.meshgrid(torch.arange(512), torch.arange(1200), indexing="ij")
    image = torch.stack([ys, xs, xs]).float()
    SlidingWindow(module.eval(), crop_size=[512, 512], stride=[341, 341])([{"image": image}])
    assert seen == [(0, left, (512, 512)) for left in (0, 341, 682, 688)]


def test_scores_are_averaged_at_the_test_size_and_then_resized() -> None:
    model = PositionalModel().eval()
    image = random_image(20, 30)
    wrapped = SlidingWindow(model, crop_size=[8, 8], stride=[5, 5])
    inputs = {"image": image, "height": 47, "width": 61, "sem_seg": "not read", "image_id": 3}
    (output,) = wrapped([inputs])
    expected = resized(slow_sliding_window(model, image, [8, 8], [5, 5]), (47, 61))
    torch.testing.assert_close(output["sem_seg"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(5, 6), (5, 20), (20, 30)])
def test_small_images_can_be_padded_to_the_crop(size: tuple) -> None:
    model = PositionalModel().eval()
    image = random_image(*size)
    options = {"crop_size": [8, 8], "stride": [5, 5]}
    colour = [10, 20, 300]  # integers, one of them too large for the image's dtype
    (output,) = SlidingWindow(model, **options, pad_value=colour)([{"image": image}])
    height, width = max(8, size[0]), max(8, size[1])
    padded = torch.tensor(colour).float()[:, None, None].repeat(1, height, width)
    padded[:, : size[0], : size[1]] = image
    expected = slow_sliding_window(model, padded, [8, 8], [5, 5])[:, : size[0], : size[1]]
    torch.testing.assert_close(output["sem_seg"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "stride", "side", "lefts"),
    [
        ((20, 33), 12, 20, [0, 12, 13]),  # three squares, the last one at the border
        ((33, 20), 12, 20, [0, 12, 13]),
        ((20, 39), 40, 20, [0, 19]),  # no farther apart than the squares are long
        ((20, 20), 12, 20, [0]),
        ((20, 40), 12, None, []),  # one side is as long as the crop
        ((20, 50), 12, None, []),
    ],
)
def test_small_images_can_be_cut_into_squares(
    size: tuple, stride: int, side: int | None, lefts: list[int]
) -> None:
    model = PositionalModel().eval()
    image = random_image(*size)
    options = {"crop_size": [40, 40], "stride": [stride] * 2}
    (output,) = SlidingWindow(model, **options, square_if_small=True)([{"image": image}])
    if side is None:
        (expected,) = SlidingWindow(model, **options)([{"image": image}])
        assert torch.equal(output["sem_seg"], expected["sem_seg"])
        return
    total, count = torch.zeros(3, *size), torch.zeros(size)
    for start in lefts:
        rows, columns = (slice(start, start + side) if n > side else slice(0, side) for n in size)
        scores = model([{"image": image[:, rows, columns], "height": side, "width": side}])
        total[:, rows, columns] += scores[0]["sem_seg"]
        count[rows, columns] += 1
    torch.testing.assert_close(output["sem_seg"], total / count)


@pytest.mark.parametrize("pad_value", [None, [10, 20, 30]])
def test_double_precision_is_kept(pad_value: list | None) -> None:
    model = PositionalModel().eval()
    image = random_image(5, 20) / torch.tensor(7.0).double()
    windows = SlidingWindow(model, crop_size=[8, 8], stride=[5, 5], pad_value=pad_value)
    size = {"height": 11, "width": 29}
    (output,) = windows([{"image": image, **size}])
    shown = image
    if pad_value is not None:
        shown = torch.tensor(pad_value).double()[:, None, None].repeat(1, 8, 20)
        shown[:, :5] = image
    expected = slow_sliding_window(model, shown, [8, 8], [5, 5])[:, :5]
    exact = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(output["sem_seg"], resized(expected, (11, 29)), **exact)
    (output,) = MultiScaleFlip(windows, scales=[1.5], flip=False)([{"image": image, **size}])
    assert output["sem_seg"].dtype == torch.float64


def slow_multi_scale(
    model: nn.Module, image: Tensor, sizes: list[tuple[int, int]], flip: bool, out: tuple
) -> Tensor:
    probabilities = []
    for size in sizes:
        view = resized(image.float(), size, antialias=True)
        inputs = {"image": view, "height": out[0], "width": out[1]}
        probabilities.append(model([inputs])[0]["sem_seg"].softmax(0))
        if flip:
            mirrored = torch.stack([view[..., -1 - x] for x in range(size[1])], dim=-1)
            scores = model([{**inputs, "image": mirrored}])[0]["sem_seg"]
            scores = torch.stack([scores[..., -1 - x] for x in range(out[1])], dim=-1)
            probabilities.append(scores.softmax(0))
    return torch.stack(probabilities).mean(0)


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


def test_both_wrappers_together() -> None:
    model = PositionalModel().eval()
    image = random_image(20, 30)
    windows = SlidingWindow(model, crop_size=[16, 16], stride=[10, 10])
    (output,) = MultiScaleFlip(windows, scales=[1.0, 1.5], flip=True, min_side=16)(
        [{"image": image, "height": 40, "width": 60}]
    )

    class Slow(nn.Module):
        def forward(self, batch: list[dict]) -> list[dict]:
            scores = slow_sliding_window(model, batch[0]["image"], [16, 16], [10, 10])
            return [{"sem_seg": resized(scores, (batch[0]["height"], batch[0]["width"]))}]

    expected = slow_multi_scale(Slow(), image, [(20, 30), (30, 45)], True, (40, 60))
    torch.testing.assert_close(output["sem_seg"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize(
    "wrapper",
    [
        SlidingWindow(PositionalModel().eval(), crop_size=[8, 8], stride=[5, 5]),
        MultiScaleFlip(PositionalModel().eval(), scales=[1.0, 1.5], flip=True),
    ],
)
def test_can_be_traced_for_one_size(wrapper: nn.Module) -> None:
    adapter = TracingAdapter(wrapper, [{"image": random_image(16, 24)}])
    traced = torch.jit.trace(adapter, (random_image(16, 24),), check_trace=False)
    image = random_image(16, 24)
    torch.testing.assert_close(traced(image), adapter(image))
    with pytest.raises(RuntimeError, match="unflatten: Provided sizes"):
        traced(random_image(24, 16))


def test_a_batch_is_a_list_of_images() -> None:
    model = PositionalModel().eval()
    batch = [{"image": random_image(20, 30)}, {"image": random_image(9, 14), "height": 3}]
    for wrapped in (
        SlidingWindow(model, crop_size=[8, 8], stride=[5, 5]),
        MultiScaleFlip(model, scales=[1.0, 2.0], flip=True),
    ):
        together = wrapped(batch)
        assert [output["sem_seg"].shape for output in together] == [(3, 20, 30), (3, 3, 14)]
        for inputs, output in zip(batch, together, strict=True):
            assert torch.equal(wrapped([inputs])[0]["sem_seg"], output["sem_seg"])


def test_mode_is_taken_over_from_the_model() -> None:
    for wrap in (
        lambda model: SlidingWindow(model, crop_size=[8, 8], stride=[8, 8]),
        lambda model: MultiScaleFlip(model, scales=[1.0], flip=False),
    ):
        assert not wrap(PositionalModel().eval()).training
        wrapped = wrap(PositionalModel().train())
        assert wrapped.training
        with pytest.raises(RuntimeError, match=r"training mode; call eval\(\)"):
            wrapped([{"image": random_image(8, 8)}])


@pytest.mark.parametrize(
    ("wrapper", "options", "message"),
    [
        (SlidingWindow, {"crop_size": [8], "stride": [4]}, r"height, width\) each, got \[8\]"),
        (SlidingWindow, {"crop_size": [8, 8], "stride": [9, 4]}, r"left out; got .*\[9, 4\]"),
        (SlidingWindow, {"crop_size": [8, 8], "stride": [4, 0]}, "stride must be between 1"),
        (
            SlidingWindow,
            {"crop_size": [8] * 2, "stride": [4] * 2, "pad_value": [1.0], "square_if_small": True},
            r"square_if_small and pad_value .* set pad_value to None, got \[1.0\]",
        ),
        (MultiScaleFlip, {"scales": [], "flip": True}, r"one or more numbers > 0, got \[\]"),
        (MultiScaleFlip, {"flip": True}, "exactly one of scales and short_sides .* scales None"),
        (MultiScaleFlip, {"scales": [1.0], "short_sides": [9], "flip": True}, "exactly one of"),
        (MultiScaleFlip, {"short_sides": [], "flip": True}, r"whole pixels >= 1, got \[\]"),
        (MultiScaleFlip, {"short_sides": [9.5], "flip": True}, r"whole pixels >= 1, got \[9.5\]"),
        (MultiScaleFlip, {"scales": [1.0, 0.0], "flip": True}, "numbers > 0"),
        (MultiScaleFlip, {"scales": [1], "flip": True, "min_side": 0}, "min_side must be >= 1"),
        (MultiScaleFlip, {"scales": [1], "flip": True, "size_divisor": 0}, "size_divisor must be"),
        (MultiScaleFlip, {"scales": [1], "flip": True, "limits": [8]}, r"limits must be .* \[8\]"),
    ],
)
def test_arguments_that_do_not_fit(wrapper: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrapper(PositionalModel(), **options)


class LiveBytes(TorchDispatchMode):
    """Counts the live bytes of all tensors that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self.live:
            self.live[id(storage)] = storage.nbytes()
            weakref.finalize(storage, self.live.pop, id(storage))
        self.peak = max(self.peak, sum(self.live.values()))


class TinyModel(nn.Module):
    """Scores of one class: the red channel."""

    def forward(self, batch: list[dict]) -> list[dict]:
        return [{"sem_seg": inputs["image"][:1].float()} for inputs in batch]


def peak_bytes(side: int, crop: int, stride: int) -> int:
    image = torch.zeros(3, side, side, dtype=torch.uint8)
    model = SlidingWindow(TinyModel().eval(), crop_size=[crop] * 2, stride=[stride] * 2)
    with LiveBytes() as counter:
        model([{"image": image}])
    return counter.peak


@pytest.mark.parametrize("side", [512, 4096])
def test_memory_does_not_grow_with_the_number_of_windows(side: int) -> None:
    crop = side // 8
    few, many = peak_bytes(side, crop, crop), peak_bytes(side, crop, crop // 3)  # 64, 484
    image, scores, window = 3 * side**2, 4 * side**2, 4 * crop**2
    assert few == pytest.approx(many, rel=0.01)
    assert image + scores <= many <= 1.02 * (image + scores + window)
