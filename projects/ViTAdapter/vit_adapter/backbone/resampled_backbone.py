"""Backbones without an adapter: a pyramid made of a plain ViT's tokens by resampling alone.

Shapes: B batch, H/W image sides in pixels, h/w grid of patches, D embed dim.
"""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from vit_adapter.backbone.pyramid_backbone import STRIDES, PyramidBackbone
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.layers import tokens_to_map


class ResampledBackbone(PyramidBackbone):
    """Tokens after some blocks of a ViT, resampled to strides 4, 8, 16 and 32."""

    def __init__(
        self, vit: ViTTrunk, *, out_indexes: Sequence[int], out_features: Sequence[str]
    ) -> None:
        """Take the ViT and note the blocks and the outputs.

        Args:
            vit: the ViT, patch size 16.
            out_indexes: the blocks, ascending, after which the tokens for strides 4, 8, 16 and 32
                are taken; a single one serves all four.
            out_features: outputs wanted. What serves none of them, blocks of the ViT too, is kept
                for the sake of checkpoints, frozen, and is not run.

        Raises:
            ValueError: arguments that do not fit each other or the ViT.
        """
        super().__init__(vit, out_features)
        self.out_indexes = _check_out_indexes(out_indexes, vit.depth)

    @abstractmethod
    def heads(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        """For each output, finest first: the norm of tokens (B, N, D), the resampling of maps."""

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
        """Freeze what serves no wanted output: distributed training waits for gradients."""
        for name, head in zip(STRIDES, self.heads(), strict=True):
            for module in head:
                module.requires_grad_(self.wants(name))
        indexes = zip(STRIDES, self.out_indexes, strict=True)
        last = max(index for name, index in indexes if self.wants(name))
        for block in self.vit.blocks_from(last + 1):
            block.requires_grad_(False)


def _check_out_indexes(out_indexes: Sequence[int], depth: int) -> tuple[int, ...]:
    """One block for each output."""
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
