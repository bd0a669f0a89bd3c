"""Sliding windows against a slow, obvious loop."""

import weakref

import pytest
import torch
from semantic_loops import (
    PositionalModel,
    random_image,
    resized,
    slow_sliding_window,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vit_adapter.test_time import MultiScaleFlip, SlidingWindow


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
