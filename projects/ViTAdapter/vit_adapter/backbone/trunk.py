"""What a Vision Transformer must offer so that an adapter can be attached to it and trained.

Shapes: B batch, C channels, H/W image sides in pixels, h/w grid of patches, N = h*w, D embed dim.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from vit_adapter.layers import GridSize
from vit_adapter.layers.derived import DerivesTensors


class ViTTrunk(DerivesTensors, ABC):
    """A plain (single-scale) Vision Transformer, cut into its embedding and its blocks.

    Adapters, baselines and the solver use only what is defined here, so a new ViT only needs
    a subclass.

    Attributes:
        embed_dim: width D of the tokens.
        depth: number of blocks.
        patch_size: side of a patch in pixels.
        in_channels: channels C of the images.
        num_prefix_tokens: tokens in front of the patches (class, registers); only the blocks see
            them.
        norm_layer: builds a LayerNorm of a given width with the trunk's epsilon.
        lora_rank: rank of the trained factors around fixed weights, see
            :func:`vit_adapter.backbone.lora.add_lora`; 0 if there are none.
    """

    embed_dim: int
    depth: int
    patch_size: int
    in_channels: int = 3
    num_prefix_tokens: int = 0
    norm_layer: Callable[[int], nn.Module]
    lora_rank: int = 0

    @property
    def final_norm(self) -> nn.Module | None:
        """The LayerNorm after the last block, if the trunk keeps it; :meth:`forward` has none."""
        return None

    @abstractmethod
    def embed(self, images: Tensor) -> tuple[Tensor, GridSize]:
        """Make tokens with their position embedding, ready for the first block.

        Args:
            images: (B, C, H, W), normalised; H and W are multiples of the patch size.

        Returns:
            The tokens (B, num_prefix_tokens + N, D), prefix first, then the patches row-major; and
            the grid (h, w).
        """

    @abstractmethod
    def forward_blocks(self, tokens: Tensor, grid: GridSize, start: int, stop: int) -> Tensor:
        """Run blocks ``start`` to ``stop`` (exclusive) on tokens (B, num_prefix_tokens + N, D)."""

    def normalise(self, tokens: Tensor) -> Tensor:
        """Apply the final norm, which the trunk must have, to tokens (B, N, D)."""
        return self.final_norm(tokens)

    @abstractmethod
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Say which layer each parameter belongs to, in the form that timm's models use.

        Args:
            coarse: part of timm's interface; ignored, since there is only one grouping.

        Returns:
            Regular expressions, matched from the start of a parameter's name: "stem" for everything
            before the first block, and "blocks" for the blocks, with the block number as the only
            group. Also "norm" for the final norm, if the trunk can keep it.
        """

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay, as in timm's models.

        These are positions and tokens. Vectors, such as biases and norms, need not be listed.
        """

    def parameter_layers(self) -> dict[str, int]:
        """The layer of every parameter, by name: 0 for the stem, i + 1 for block i.

        The final norm comes after the last block, like the parts outside the trunk.

        Raises:
            ValueError: :meth:`group_matcher` does not place a parameter; the message lists them.
        """
        matcher = self.group_matcher()
        stem, block = re.compile(matcher["stem"]), re.compile(matcher["blocks"])
        layers, unplaced = {}, []
        for name, _ in self.named_parameters():
            found = block.match(name)
            if stem.match(name):
                layers[name] = 0
            elif found and int(found[1]) < self.depth:
                layers[name] = int(found[1]) + 1
            elif "norm" in matcher and re.match(matcher["norm"], name):
                layers[name] = self.depth + 1
            else:
                unplaced.append(name)
        if unplaced:
            raise ValueError(
                f"{type(self).__name__} does not say which layer {', '.join(unplaced)} belongs to: "
                f"group_matcher() must place every parameter in the stem or in one of the "
                f"{self.depth} blocks, got {matcher}"
            )
        return layers

    def blocks_from(self, start: int) -> Sequence[nn.Module]:
        """Block ``start`` and all blocks after it, from the attribute ``blocks``."""
        return self.blocks[start:]

    def sharding_units(self) -> Sequence[nn.Module]:
        """Parts that ``train.parallel=fsdp`` gathers one at a time.

        Any module can have this method. A part's parameters must be read only inside its own call,
        as ``part(...)``. Everything outside such parts is gathered for the whole step.
        """
        return self.blocks_from(0)

    def forward(self, images: Tensor) -> tuple[Tensor, GridSize]:
        """Run the whole trunk, without a final norm: (B, C, H, W) -> tokens and grid."""
        tokens, grid = self.embed(images)
        return self.forward_blocks(tokens, grid, 0, self.depth), grid


def check_images(images: Tensor, channels: int) -> None:
    """Refuse anything but a non-empty batch of float images (B, ``channels``, H, W).

    Raises:
        ValueError: wrong number of dimensions or channels, a side of 0, or an integer tensor.
    """
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(
            f"expected images of shape (B, {channels}, H, W), got {tuple(images.shape)}"
        )
    if images.numel() == 0:
        raise ValueError(
            f"expected at least one image with sides of at least 1, got {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"expected normalised float images, got {images.dtype}; convert and normalise first"
        )


def check_patch_size(vit: ViTTrunk, expected: int = 16) -> None:
    """Refuse a trunk whose grid is not that of the pyramid's stride-16 level.

    Raises:
        ValueError: the patch size is not ``expected``.
    """
    if vit.patch_size != expected:
        raise ValueError(
            f"the feature pyramid needs a ViT of patch size {expected}, got {vit.patch_size}; "
            f"build the ViT with patch_size={expected} and resize the kernel of its patch embedding"
        )
