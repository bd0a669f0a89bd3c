"""Backbones without an adapter: a pyramid made by resampling the tokens of a plain ViT.

Shapes: B batch, H/W image sides in pixels, h/w grid of patches, D embed dim.
"""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from vit_adapter.backbone.pyramid_backbone import STRIDES, PyramidBackbone
from vit_adapter.backbone.trunk import ViTTrunk, check_patch_size
from vit_adapter.layers import tokens_to_map


class ResampledBackbone(PyramidBackbone):
    """Tokens after some blocks of a ViT, resampled to strides 4, 8, 16 and 32.

    Args:
        vit: the ViT, patch size 16.
        out_indexes: ascending numbers of the blocks whose outputs make strides 4, 8, 16 and 32;
            a single block serves all four.
        out_features: names of the outputs. Parts that no output needs, including ViT blocks, are
            frozen and do not run; they stay in the model so that checkpoints fit.

    Raises:
        ValueError: the arguments do not fit each other or the ViT.
    """

    def __init__(
        self, vit: ViTTrunk, *, out_indexes: Sequence[int], out_features: Sequence[str]
    ) -> None:
        super().__init__(vit, out_features)
        check_patch_size(vit)
        self.out_indexes = _check_out_indexes(out_indexes, vit.depth)

    @abstractmethod
    def heads(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        """The norm of tokens (B, N, D) and the resampling of maps for each output, finest first."""

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """See :meth:`PyramidBackbone.compute`."""
        tokens, grid = self.vit.embed(images)
        outputs = {}
        done = 0
        heads = zip(STRIDES, self.out_indexes, self.heads(), strict=True)
        for name, index, (norm, resample) in heads:
            if self.wants(name):
                tokens = self.vit.forward_blocks(tokens, grid, done, index + 1)
                done = index + 1
                patches = norm(tokens[:, self.vit.num_prefix_tokens :])
                outputs[name] = resample(tokens_to_map(patches, grid).contiguous())
        return outputs

    def freeze_unused(self) -> None:
        """Freeze what no output needs: distributed training waits for every gradient."""
        for name, head in zip(STRIDES, self.heads(), strict=True):
            for module in head:
                module.requires_grad_(self.wants(name))
        indexes = zip(STRIDES, self.out_indexes, strict=True)
        last = max(index for name, index in indexes if self.wants(name))
        for block in self.vit.blocks_from(last + 1):
            block.requires_grad_(False)


def _check_out_indexes(out_indexes: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return one block number for each output."""
    indexes = tuple(out_indexes)
    if len(indexes) == 1:
        indexes *= len(STRIDES)
    fits = len(indexes) == len(STRIDES) and sorted(indexes) == list(indexes)
    if not fits or indexes[0] < 0 or indexes[-1] >= depth:
        raise ValueError(
            f"out_indexes must be one or {len(STRIDES)} ascending block numbers "
            f"from 0 to {depth - 1}, got {list(out_indexes)}"
        )
    return indexes
