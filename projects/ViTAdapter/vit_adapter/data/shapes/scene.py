"""Draws one image of coloured shapes together with the exact truth about each of its pixels.

A scene is a ground of one or two textures, *speckle* and *stripes*, on which 3 to 8 circles,
squares and triangles are painted over each other. The centre of a pixel decides what it belongs to.
Colours are blended over one pixel across an edge, so the image has smooth edges while the truth
stays binary.

Frame: x to the right, y down, pixel (row i, column j) has its centre at (j + 0.5, i + 0.5).

Shapes: H/W image sides in pixels (equal here), K number of shapes in the image.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image

THING_CLASSES: tuple[str, ...] = ("circle", "square", "triangle")
STUFF_CLASSES: tuple[str, ...] = ("speckle", "stripes")

MIN_IMAGE_SIZE = 64

_SHAPES_PER_IMAGE = (3, 8)
# A shape's size is the radius of the circle of about the same visual weight, as a fraction of the
# image side. At 128 px: 8 to 28 px, that is areas of about 150 to 2500 px, on both sides of COCO's
# 32^2.
_RADIUS_RANGE = (0.0625, 0.22)
# Half-side of a square and circumradius of a triangle, per unit of that radius.
_SQUARE_HALF_SIDE = 0.89
_TRIANGLE_CIRCUMRADIUS = 1.3
# Below this visible share, the class of an occluded shape would often be a guess.
_MIN_VISIBLE_SHARE = 0.6
_MIN_VISIBLE_PIXELS = 40
_MAX_PLACEMENTS = 200
_GOLDEN_RATIO_STEP = 0.618034  # spreads the hues of one image, so that overlapping shapes differ


@dataclass(frozen=True)
class Scene:
    """One drawn image and its truth.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        categories: class of each of the K shapes, an index into ``THING_CLASSES``, in painting
            order.
        segments: (H, W) uint8, 0 on the ground, k + 1 where shape k is visible.
        ground: (H, W) uint8, index into ``STUFF_CLASSES`` of the ground, also underneath the
            shapes.
    """

    image: np.ndarray
    categories: tuple[int, ...]
    segments: np.ndarray
    ground: np.ndarray

    def visible_mask(self, index: int) -> np.ndarray:
        """Return the (H, W) bool mask of the visible pixels of shape ``index``, counted from 0."""
        return self.segments == index + 1

    def things(self) -> np.ndarray:
        """Return (H, W) int64: the class of the visible shape, or -1 on the ground."""
        return np.array((-1, *self.categories))[self.segments]


@dataclass(frozen=True)
class _Shape:
    """A shape before painting: centre (x, y) and radius in pixels, rotation in radians."""

    category: int
    centre: tuple[float, float]
    radius: float
    angle: float

    def signed_distance(self, size: int) -> np.ndarray:
        """Return (H, W): distance to the nearest edge line in pixels, negative inside the shape."""
        axis = np.arange(size) + 0.5
        x, y = axis[None, :] - self.centre[0], axis[:, None] - self.centre[1]
        if THING_CLASSES[self.category] == "circle":
            return np.hypot(x, y) - self.radius
        # A regular polygon is the intersection of the half planes below its sides.
        if THING_CLASSES[self.category] == "square":
            sides, inradius = 4, self.radius * _SQUARE_HALF_SIDE
        else:
            sides, inradius = 3, self.radius * _TRIANGLE_CIRCUMRADIUS / 2
        normals = self.angle + 2 * np.pi * np.arange(sides) / sides
        return np.max([np.cos(a) * x + np.sin(a) * y for a in normals], axis=0) - inradius


def draw_scene(rng: Generator, size: int) -> Scene:
    """Draw one scene.

    Args:
        rng: source of randomness; equal states give equal scenes.
        size: height and width in pixels, at least ``MIN_IMAGE_SIZE``.

    Returns:
        The image and its truth. Every shape keeps a visible share of at least 60 % of its area
        inside the image, and at least 40 pixels.
    """
    if size < MIN_IMAGE_SIZE:
        raise ValueError(
            f"Shapes need images of at least {MIN_IMAGE_SIZE} px a side to be recognisable, got "
            f"image_size={size}."
        )
    ground = _ground_map(rng, size)
    canvas = np.where(
        (ground == 0)[..., None], _speckle_texture(rng, size), _stripes_texture(rng, size)
    )
    shapes, segments = _place_shapes(rng, size)
    first_hue = rng.random()
    for index, shape in enumerate(shapes):
        hue = (first_hue + index * _GOLDEN_RATIO_STEP + rng.uniform(-0.04, 0.04)) % 1.0
        colour = _rgb(hue, rng.uniform(0.7, 1.0), rng.uniform(0.75, 1.0))
        opacity = np.clip(0.5 - shape.signed_distance(size), 0.0, 1.0)
        touched = opacity > 0
        opacity = opacity[touched][:, None]
        grain = rng.normal(0.0, 4.0, opacity.shape)
        paint = colour * _shading(rng, size)[touched][:, None] + grain
        canvas[touched] = (1.0 - opacity) * canvas[touched] + opacity * paint
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Scene(image, tuple(shape.category for shape in shapes), segments, ground)


def _place_shapes(rng: Generator, size: int) -> tuple[list[_Shape], np.ndarray]:
    """Choose shapes that leave each other visible; return them and their (H, W) segment map."""
    wanted = int(rng.integers(_SHAPES_PER_IMAGE[0], _SHAPES_PER_IMAGE[1] + 1))
    shapes: list[_Shape] = []
    full_areas: list[int] = []
    segments = np.zeros((size, size), np.uint8)
    for _ in range(_MAX_PLACEMENTS):
        if len(shapes) == wanted:
            break
        shape = _random_shape(rng, size)
        inside = shape.signed_distance(size) < 0
        painted = np.where(inside, len(shapes) + 1, segments).astype(np.uint8)
        areas = [*full_areas, int(inside.sum())]
        visible = np.bincount(painted.ravel(), minlength=len(areas) + 1)[1:]
        needed = np.maximum(np.array(areas) * _MIN_VISIBLE_SHARE, _MIN_VISIBLE_PIXELS)
        if (visible >= needed).all():
            shapes.append(shape)
            full_areas, segments = areas, painted
    return shapes, segments


def _random_shape(rng: Generator, size: int) -> _Shape:
    low, high = (np.log(fraction * size) for fraction in _RADIUS_RANGE)
    radius = float(np.exp(rng.uniform(low, high)))
    margin = 0.6 * radius  # up to about a fifth of a shape may lie outside the image
    return _Shape(
        category=int(rng.integers(len(THING_CLASSES))),
        centre=(
            float(rng.uniform(margin, size - margin)),
            float(rng.uniform(margin, size - margin)),
        ),
        radius=radius,
        angle=float(rng.uniform(0, 2 * np.pi)),
    )


def _ground_map(rng: Generator, size: int) -> np.ndarray:
    """Return (H, W) uint8 ground classes: one class, or two on the sides of a wavy line."""
    first = int(rng.integers(len(STUFF_CLASSES)))
    if rng.random() < 0.4:
        return np.full((size, size), first, np.uint8)
    axis = (np.arange(size) + 0.5) / size
    x, y = axis[None, :] - 0.5, axis[:, None] - 0.5
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.2, 0.2)
    across, along = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    wave = 0.06 * np.sin(2 * np.pi * (rng.uniform(1, 2) * along + rng.random()))
    return np.where(across > offset + wave, first, 1 - first).astype(np.uint8)


def _speckle_texture(rng: Generator, size: int) -> np.ndarray:
    """Return (H, W, 3) float colours in 0..255: soft blotches under fine grain."""
    coarse = Image.fromarray(rng.normal(0.0, 14.0, (8, 8)).astype(np.float32))
    blotches = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    grain = rng.normal(0.0, 11.0, (size, size))
    return _ground_colour(rng) + (blotches + grain)[..., None]


def _stripes_texture(rng: Generator, size: int) -> np.ndarray:
    """Return (H, W, 3) float colours in 0..255: straight stripes, 5 to 10 px apart."""
    axis = np.arange(size) + 0.5
    angle, period = rng.uniform(0, np.pi), rng.uniform(5.0, 10.0)
    across = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    stripes = 20.0 * np.sin(2 * np.pi * (across / period + rng.random()))
    return _ground_colour(rng) + (stripes + rng.normal(0.0, 4.0, (size, size)))[..., None]


def _ground_colour(rng: Generator) -> np.ndarray:
    """Return a dull colour, (3,) in 0..255, so that the ground differs from every shape."""
    return _rgb(rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.7))


def _shading(rng: Generator, size: int) -> np.ndarray:
    """Return (H, W) brightness factors in 0.85..1: light that falls off in a random direction."""
    axis = (np.arange(size) + 0.5) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]  # within +-0.71
    return 0.925 + 0.105 * slope


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255.0 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
