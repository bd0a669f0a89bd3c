"""A semantic model and slow, obvious loops over its windows and views."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
