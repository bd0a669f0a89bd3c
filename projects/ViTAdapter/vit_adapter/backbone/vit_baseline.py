"""The plain-ViT baseline for ViT-Adapter: a pyramid made by resampling alone.

With residual bottlenecks after the same blocks (``PlainViT(residual_indexes=out_indexes)``) it is
the paper's ViTDet.

Shapes: D embed dim.
"""

from collections.abc import Sequence

from torch import nn

from vit_adapter.backbone.init import init_adapter_weights
from vit_adapter.backbone.pyramid_backbone import STRIDES
from vit_adapter.backbone.resampled_backbone import ResampledBackbone
from vit_adapter.backbone.trunk import ViTTrunk

NUM_GROUPS = 32


class ViTBaseline(ResampledBackbone):
    """Tokens after some blocks of a ViT, normalised and resampled to strides 4, 8, 16 and 32.

    Args:
        vit, out_indexes, out_features: see :class:`ResampledBackbone`; the width of the ViT must be
            a multiple of 32.

    Raises:
        ValueError: the arguments do not fit each other or the ViT.
    """

    def __init__(
        self,
        vit: ViTTrunk,
        *,
        out_indexes: Sequence[int],
        out_features: Sequence[str] = tuple(STRIDES),
    ) -> None:
        super().__init__(vit, out_indexes=out_indexes, out_features=out_features)
        dim = vit.embed_dim
        if dim % NUM_GROUPS:
            raise ValueError(
                f"the ViT's width must be a multiple of {NUM_GROUPS} (group norm), got {dim}"
            )
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
        self.freeze_unused()

    def heads(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        """See :meth:`ResampledBackbone.heads`."""
        return (
            (self.norm1, self.up1),
            (self.norm2, self.up2),
            (self.norm3, self.up3),
            (self.norm4, self.up4),
        )
