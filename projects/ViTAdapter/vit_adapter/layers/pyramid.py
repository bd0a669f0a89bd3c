"""Grids of a token pyramid: their sizes, their sampling centres, and tokens <-> feature maps.

Sizes are Python integers, (height, width), so that nothing waits for the device and traced graphs
contain them. Only while a graph for images of any size is exported, they are symbols.

Shapes: B batch, C channels, H/W grid height and width, L levels, S = sum of H*W over the levels.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_adapter.layers.kept import Kept, holds_numbers, keep_if_captured
from vit_adapter.ops.exporting import is_exporting

GridSize = tuple[int, int]
"""(height, width) of one level, in tokens."""

# Image sides are padded to multiples of this: the coarsest pyramid level has stride 32.
PYRAMID_STRIDE = 32
VIT_STRIDE = 16

# Training with many image sizes must not keep a table for each of them.
_MAX_CACHED = 64
_constants: dict[tuple, Kept[Tensor]] = {}
_constants_lock = threading.Lock()  # threads may predict with the same model


@dataclass(frozen=True)
class PyramidGeometry:
    """The grids of one image in a ViT-Adapter.

    Attributes:
        image_size: (height, width) in pixels.
        prior_strides: strides of the prior tokens in use, finest first: 8, 16, 32 or some of them.
        prior_shapes: their grids.
        vit_shape: grid of the ViT tokens, that is, of the whole patches in the image.
    """

    image_size: GridSize
    prior_strides: tuple[int, ...]
    prior_shapes: tuple[GridSize, ...]
    vit_shape: GridSize

    @classmethod
    def from_image_size(
        cls,
        height: int,
        width: int,
        prior_strides: Sequence[int] = (8, 16, 32),
        patch_size: int = VIT_STRIDE,
    ) -> "PyramidGeometry":
        """Geometry of an image whose sides, in pixels, are multiples of 32.

        Args:
            height, width: sides of the image.
            prior_strides: see :class:`PyramidGeometry`.
            patch_size: side of the ViT's patches in pixels, at most 32. If it does not divide a
                side, the ViT does not see the last pixels.

        Raises:
            ValueError: a side is not a positive multiple of 32.
        """
        if min(height, width) <= 0 or height % PYRAMID_STRIDE or width % PYRAMID_STRIDE:
            raise ValueError(
                f"image sides must be positive multiples of {PYRAMID_STRIDE}, "
                f"got {height} x {width}; pad the image with pad_to_multiple"
            )
        return cls(
            image_size=(height, width),
            prior_strides=tuple(prior_strides),
            prior_shapes=tuple((height // s, width // s) for s in prior_strides),
            vit_shape=(height // patch_size, width // patch_size),
        )

    def map_shape(self, stride: int) -> GridSize:
        """The grid of a map of this stride."""
        return self.image_size[0] // stride, self.image_size[1] // stride


def known_equal(first: GridSize, second: GridSize) -> bool:
    """Whether two sizes are equal; False if one of them is a symbol and they need not be.

    A comparison of symbols would restrict the exported graph to the sizes of the example.
    """
    if not is_exporting():
        return tuple(first) == tuple(second)
    # Slow to import, and needed only here.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return all(statically_known_true(a == b) for a, b in zip(first, second, strict=True))


def num_positions(spatial_shapes: Sequence[GridSize]) -> int:
    """Number of tokens in levels of the given (H, W)."""
    return sum(height * width for height, width in spatial_shapes)


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, H, W) with zeros, at the bottom and right, to multiples of ``multiple``."""
    height, width = images.shape[-2:]
    # Not -height % multiple: torch.compile cannot trace Python's remainder of negative numbers.
    bottom, right = (-(-side // multiple) * multiple - side for side in (height, width))
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images


def fix_traced_size(images: Tensor) -> Tensor:
    """Return images as they are, but let a graph of ``torch.jit.trace`` accept only their size.

    Such a graph holds what Python computes from the size (grids, crops, windows) as constants.
    Without this check it would accept images of other sizes and return wrong results.

    Args:
        images: (..., H, W).
    """
    if torch.jit.is_tracing():
        for dim, side in enumerate(images.shape):
            images = images.unflatten(dim, (int(side),))  # fails at any other side
    return images


def crop_map(features: Tensor, image_size: GridSize, stride: int) -> Tensor:
    """Cut (B, C, H, W) to the ceil(side / stride) rows and columns that an image reaches.

    Args:
        features: map of the padded image.
        image_size: (height, width) of the image in pixels, before padding.
        stride: stride of the map.
    """
    height, width = (-(-side // stride) for side in image_size)
    same = known_equal(features.shape[-2:], (height, width))
    return features if same else features[..., :height, :width]


def split_levels(tokens: Tensor, spatial_shapes: Sequence[GridSize]) -> list[Tensor]:
    """Cut (B, S, C) into one (B, H*W, C) view per level.

    Raises:
        ValueError: the levels do not add up to S tokens.
    """
    lengths = [height * width for height, width in spatial_shapes]
    if sum(lengths) != tokens.shape[1]:
        raise ValueError(
            f"levels {list(spatial_shapes)} hold {sum(lengths)} tokens, "
            f"but the tensor has {tokens.shape[1]}"
        )
    return list(tokens.split(lengths, dim=1))


def tokens_to_map(tokens: Tensor, grid: GridSize) -> Tensor:
    """View row-major tokens (B, H*W, C) as a map (B, C, H, W) without a copy.

    The result has channels-last strides; see :func:`vit_adapter.layers.normalise_map` for norms.
    """
    batch, _, channels = tokens.shape
    return tokens.view(batch, *grid, channels).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)


def map_to_tokens(features: Tensor) -> Tensor:
    """View a map (B, C, H, W) as row-major tokens (B, H*W, C), without a copy."""
    return features.flatten(2).transpose(1, 2)


def resize_map(features: Tensor, size: GridSize) -> Tensor:
    """Resize a map (B, C, H, W) bilinearly to ``size``; one half is the mean of 2 x 2 cells.

    There is no antialiasing, so scales below one half skip cells.
    """
    if known_equal(features.shape[-2:], size):
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def reference_points(
    spatial_shapes: Sequence[GridSize], *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Centres of the cells of all levels, level by level.

    Returns:
        (1, S, 1, 2), (x, y) in (0, 1) of the image. Do not write to it: it is shared between calls.
    """
    return cached_constant(_cell_centres, tuple(spatial_shapes), device, dtype)


def inverse_grid_sizes(
    spatial_shapes: Sequence[GridSize], *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """(L, 2) of (1 / W, 1 / H): times offsets in cells of a level, (x, y), gives image fractions.

    Do not write to the result: it is shared between calls.
    """
    return cached_constant(_inverse_sizes, tuple(spatial_shapes), device, dtype)


def _cell_centres(shapes: tuple[GridSize, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    levels = []
    for height, width in shapes:
        y = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
        levels.append(torch.cartesian_prod(y, x).flip(-1))  # (H*W, 2) as (x, y)
    return torch.cat(levels)[None, :, None]


def _inverse_sizes(
    shapes: tuple[GridSize, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    # Filled on the device: a list would be copied there, at which the compiler splits CUDA graphs.
    inverses = [1 / side for height, width in shapes for side in (width, height)]
    filled = [torch.full((1,), inverse, device=device, dtype=dtype) for inverse in inverses]
    return torch.cat(filled).view(-1, 2)


_Make = Callable[[tuple[Any, ...], torch.device, torch.dtype], Tensor]


def cached_constant(
    make: _Make, arguments: tuple[Any, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return ``make(arguments, device, dtype)``, computed once for equal arguments.

    Do not write to the result: it is shared between calls. It should be small: the tensors of the
    last 64 different arguments are kept, and all those that CUDA graphs read.

    Args:
        make: a function, not an object that PyTorch 2.11's compiler would have to create.
        arguments: usually (H, W) of each level; they must be hashable.
        device, dtype: of the result.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return make(arguments, device, dtype)  # a traced graph makes its own constants
    key = (make, arguments, device, dtype)
    kept = _constants.get(key)
    if kept is not None:
        return keep_if_captured(kept.read())
    # A tensor made in inference mode could not be used in a later training step.
    with torch.inference_mode(False):
        value = make(arguments, device, dtype)
    if holds_numbers(value):
        kept = Kept(value)
        with _constants_lock:
            if len(_constants) >= _MAX_CACHED:
                _constants.pop(next(iter(_constants)))
            _constants[key] = kept
    return value
