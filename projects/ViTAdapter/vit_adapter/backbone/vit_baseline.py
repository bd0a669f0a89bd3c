"""The plain-ViT backbone that ViT-Adapter is compared with: a pyramid by resampling alone.

With residual bottlenecks after the same blocks (``PlainViT(residual_indexes=out_indexes)``) it is
the paper's ViTDet.

Shapes: B batch, H/W image sides in pixels, h/w grid of patches, D embed dim.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from vit_adapter.backbone.init import init_adapter_weights
from vit_adapter.backbone.pyramid_backbone import STRIDES, PyramidBackbone
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.layers import tokens_to_map

NUM_GROUPS = 32


class ViTBaseline(PyramidBackbone):
    """Tokens after some blocks of a ViT, normalised and resampled to strides 4, 8, 16 and 32."""

    def __init__(
        self,
        vit: ViTTrunk,
        *,
        out_indexes: Sequence[int],
        out_features: Sequence[str] = tuple(STRIDES),
    ) -> None:
        """Make the backbone.

        Args:
            vit: the ViT, patch size 16, width a multiple of 32.
            out_indexes: the blocks, ascending, after which the tokens for strides 4, 8, 16 and 32
                are taken; a single one serves all four.
            out_features: outputs wanted. What only serves the others is kept for the sake of
                checkpoints, frozen.

        Raises:
            ValueError: arguments that do not fit each other or the ViT.
        """
        super().__init__(vit, out_features)
        dim = vit.embed_dim
        if dim % NUM_GROUPS:
            raise ValueError(
                f"the ViT's width must be a multiple of {NUM_GROUPS} (group norm), got {dim}"
            )
        self.out_indexes = _check_out_indexes(out_indexes, vit.depth)
        self.norm1, self.norm2, self.norm3, self.norm4 = (vit.norm_layer(dim) for _ in STRIDES)
        self.up1 = nn.Sequential(
            nn.ConvTranspose2d(dim, dim, 2, stride=2),
            nn.GroupNorm(NUM_GROUPS, dim),
            nn.GELU(),
            nn.ConvTranspose2d(dim, dim, 2, stride=2),
        )
        self.up2 = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.up3 = nn.Identity()
        self.up4 = nn.MaxPool2d(2)
        for part in (self.up1, self.up2):
            part.apply(init_adapter_weights)
        self._freeze_unused()

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """See :meth:`PyramidBackbone.compute`."""
        tokens, grid = self.vit.embed(images)
        outputs = {}
        done = 0
        heads = zip(STRIDES, self.out_indexes, self._heads(), strict=True)
        for name, index, (norm, resample) in heads:
            tokens = self.vit.forward_blocks(tokens, grid, done, index + 1)
            done = index + 1
            if self.wants(name):
                patches = norm(tokens[:, self.vit.num_prefix_tokens :])
                outputs[name] = resample(tokens_to_map(patches, grid).contiguous())
        return outputs

    def _heads(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        """Norm and resampling of each output."""
        return (
            (self.norm1, self.up1),
            (self.norm2, self.up2),
            (self.norm3, self.up3),
            (self.norm4, self.up4),
        )

    def _freeze_unused(self) -> None:
        for name, head in zip(STRIDES, self._heads(), strict=True):
            for module in head:
                module.requires_grad_(self.wants(name))


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
