"""Sliding windows and multi-scale testing against slow, obvious loops."""

import weakref
from collections.abc import Iterator

import pytest
import torch
from detectron2.export import TracingAdapter
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
        image = image.float()
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
    assert views.view_size(*size, scale) == expected


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
        (MultiScaleFlip, {"scales": [], "flip": True}, r"one or more numbers > 0, got \[\]"),
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
