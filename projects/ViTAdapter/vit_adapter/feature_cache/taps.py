"""The taps of a batch, computed or read view by view.

Shapes: B batch, T taps, H/W image sides in pixels, h/w grid of patches, N = h*w, D embed dim.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vit_adapter.backbone import ViTAdapter
from vit_adapter.feature_cache.store import TapStore
from vit_adapter.layers.pyramid import PYRAMID_STRIDE

__all__ = ["ViewTaps"]


class ViewTaps:
    """Replaces ``ViTAdapter.read_taps`` by taps that depend on nothing but the view itself.

    Each image passes through the ViT alone and without the padding that its batch adds, and its
    taps are rounded to bfloat16, whether there is a store or not. What is read is therefore equal
    to what would be computed. In the grid of the batch, tokens beyond the image are 0.

    Call :meth:`expect` with the inputs of the model before each forward pass in training.

    Args:
        backbone: an adapter in mode "frozen". Set its ``tap_source`` to this object.
        store: where taps are kept; None computes them every time.
    """

    def __init__(self, backbone: ViTAdapter, store: TapStore | None = None) -> None:
        self._backbone = backbone
        self._store = store
        self._views: Sequence[Mapping[str, Any]] = ()

    def expect(self, batched_inputs: Sequence[Mapping[str, Any]]) -> None:
        """Take note of the views that the next forward pass will be about.

        Args:
            batched_inputs: one mapping per image: "image" (channels, H, W) and "view_key", as
                :class:`vit_adapter.data.ViewMapper` makes them.
        """
        self._views = batched_inputs

    def tap_shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The shape (T, h, w, D) of the taps of an image with sides in pixels."""
        vit = self._backbone.vit
        rows, columns = (
            -(-side // PYRAMID_STRIDE) * PYRAMID_STRIDE // vit.patch_size
            for side in (height, width)
        )
        return len(self._backbone.interaction_indexes), rows, columns, vit.embed_dim

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the taps (B, N, D) of a batch; see :meth:`ViTAdapter.read_taps`.

        Raises:
            RuntimeError: the batch is not the expected one.
        """
        views, self._views = self._views, ()
        if len(views) != len(images):
            raise RuntimeError(
                f"the feature cache expects the {len(views)} images of the model's input, but the "
                f"backbone got {len(images)}"
            )
        patch_size = self._backbone.vit.patch_size
        grid = [side // patch_size for side in images.shape[-2:]]
        shape = self.tap_shape(1, 1)
        batch = images.new_zeros(shape[0], len(images), *grid, shape[-1])
        for view, image, target in zip(views, images, batch.unbind(1), strict=True):
            taps = self._find(view, image)
            target[:, : taps.shape[1], : taps.shape[2]] = taps
        return list(batch.flatten(2, 3))

    def _find(self, view: Mapping[str, Any], image: Tensor) -> Tensor:
        """Return the taps (T, h, w, D) of one image (3, H, W) in bfloat16."""
        shape = self.tap_shape(*view["image"].shape[-2:])
        stored = self._store and self._store.read(view["view_key"], shape)
        if stored is not None:
            return stored
        height, width = (side * self._backbone.vit.patch_size for side in shape[1:3])
        taps = torch.cat(self._backbone.read_taps(image[None, :, :height, :width]))
        taps = taps.to(torch.bfloat16).view(shape)
        if self._store:
            self._store.write(view["view_key"], taps.cpu())
        return taps
