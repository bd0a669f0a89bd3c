"""Extra levels of a pyramid."""

from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import Tensor

__all__ = ["LastLevelStridedConvs"]


class LastLevelStridedConvs(LastLevelP6P7):
    """Levels p6 and p7 by strided convolutions of the pyramid's own output p5.

    Unlike in RetinaNet there is no activation between the two.

    Args:
        in_channels: channels of ``in_feature``.
        out_channels: channels of the new levels.
        in_feature: name of the last output of the pyramid.
    """

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "p5") -> None:
        super().__init__(in_channels, out_channels, in_feature)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Compute the levels from ``in_feature`` (B, C, H, W)."""
        p6 = self.p6(features)
        return [p6, self.p7(p6)]
