"""Normalisation layers of feature maps."""

from detectron2.layers import get_norm
from torch import Tensor, nn

_NAMES = ("BN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N", "FrozenBN", "GN")


def build_norm(norm: str, channels: int) -> nn.Module:
    """Make a norm by Detectron2's name; "SyncBN" is plain batch norm where one process runs alone.

    Args:
        norm: "BN", "SyncBN", "naiveSyncBN" (also synchronises CPU processes), "naiveSyncBN_N",
            "FrozenBN", "GN", or "" for none.
        channels: channels of the map.

    Raises:
        ValueError: the name is not known.
    """
    if norm == "":
        return nn.Identity()
    if norm not in _NAMES:
        raise ValueError(f"unknown norm {norm!r}; expected one of {', '.join(_NAMES)} or ''")
    return get_norm(norm, channels)


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of every position of a map (B, C, H, W)."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, C, H, W); the result has channels-last strides."""
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
