"""How boxes see the semantic branch.

Shapes: B batch, C channels, R boxes of all images, S side of the features of a box.
"""

import torch.nn.functional as F
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor, nn


class SemanticFusion(nn.Module):
    """Adds the semantic embedding inside each box to its features.

    Args:
        pooler: reads the embedding. If its output is larger than the features, as in the box
            branch, it is averaged down to their size.
    """

    def __init__(self, *, pooler: ROIPooler) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, features: Tensor, embedding: Tensor, boxes: list[Boxes]) -> Tensor:
        """Compute the sum, (R, C, S, S).

        Args:
            features: (R, C, S, S), of the box or the mask branch.
            embedding: (B, C, h, w), from :class:`FusedSemanticHead`.
            boxes: the boxes of each of the B images, R in all.
        """
        pooled = self.pooler([embedding], boxes)
        return features + F.adaptive_avg_pool2d(pooled, features.shape[-2:])
