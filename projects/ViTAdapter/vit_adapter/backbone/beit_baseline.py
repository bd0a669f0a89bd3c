"""The plain-BEiT backbone of BEiT's own segmentors: a baseline for ViT-Adapter.

Shapes: D embed dim.
"""

from collections.abc import Sequence

from torch import nn

from vit_adapter.backbone.pyramid_backbone import STRIDES
from vit_adapter.backbone.resampled_backbone import ResampledBackbone
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.layers import build_norm


class BEiTBaseline(ResampledBackbone):
    """Tokens after some blocks of a ViT, resampled to strides 4, 8, 16 and 32 without a norm.

    Args:
        vit, out_indexes, out_features: see :class:`ResampledBackbone`.
        norm: norm between the two steps to stride 4, see :func:`vit_adapter.layers.build_norm`.

    Raises:
        ValueError: the arguments do not fit each other or the ViT.
    """

    def __init__(
        self,
        vit: ViTTrunk,
        *,
        out_indexes: Sequence[int],
        norm: str = "SyncBN",
        out_features: Sequence[str] = tuple(STRIDES),
    ) -> None:
        super().__init__(vit, out_indexes=out_indexes, out_features=out_features)
        dim = vit.embed_dim
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(dim, dim, 2, stride=2),
            build_norm(norm, dim),
            nn.GELU(),
            nn.ConvTranspose2d(dim, dim, 2, stride=2),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(dim, dim, 2, stride=2))
        self.fpn3 = nn.Identity()
        self.fpn4 = nn.MaxPool2d(2)
        self.freeze_unused()

    def heads(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        """See :meth:`ResampledBackbone.heads`."""
        resamplings = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        return tuple((nn.Identity(), resampling) for resampling in resamplings)
