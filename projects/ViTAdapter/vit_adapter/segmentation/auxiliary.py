"""A head together with an auxiliary head that only training uses."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from vit_adapter.segmentation.fcn import FCNHead
from vit_adapter.segmentation.upernet import UPerNetHead


@SEM_SEG_HEADS_REGISTRY.register()
class HeadWithAuxiliary(nn.Module):
    """Two heads for Detectron2's ``SemanticSegmentor``: both give losses, only the main one scores.

    Args:
        main: the head that gives scores and losses.
        auxiliary: the head that only gives losses in training.

    Attributes:
        ignore_value: label of pixels without a class, the same in both heads.

    Raises:
        ValueError: the two heads ignore different labels.
    """

    @configurable
    def __init__(self, *, main: nn.Module, auxiliary: nn.Module) -> None:
        super().__init__()
        if main.ignore_value != auxiliary.ignore_value:
            raise ValueError(
                "both heads must have the same ignore_value, "
                f"got {main.ignore_value} and {auxiliary.ignore_value}"
            )
        self.main = main
        self.auxiliary = auxiliary
        self.ignore_value = main.ignore_value

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.SEM_SEG_HEAD`` of a yacs config: UPerNet with the usual auxiliary head."""
        return {"main": UPerNetHead(cfg, input_shape), "auxiliary": FCNHead(cfg, input_shape)}

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """See :meth:`PixelHead.forward`; the names of auxiliary losses end in ``_aux``."""
        scores, losses = self.main(features, targets)
        if self.training:
            _, auxiliary = self.auxiliary(features, targets)
            losses = losses | {f"{name}_aux": value for name, value in auxiliary.items()}
        return scores, losses
