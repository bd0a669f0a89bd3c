"""One stage of Sparse R-CNN.

Shapes: B batch, P proposals of an image, C channels, K classes, S side of the pooled features.
"""

import math

from torch import Tensor, nn

from vit_adapter.detection.sparse_rcnn.dynamic_conv import DynamicConv

__all__ = ["InteractionStage"]


class InteractionStage(nn.Module):
    """Lets the proposals of an image attend to each other, and each interact with its own region.

    Args:
        channels: channels C of proposals and regions.
        num_classes: classes K.
        pool_size: side S of the pooled features.
        num_heads: heads of the attention.
        dynamic_channels: hidden channels of the :class:`DynamicConv`.
        ffn_channels: hidden channels of the feed-forward network.
        num_cls_layers: layers of the branch for classes.
        num_box_layers: layers of the branch for boxes.
        prior_prob: probability of each class before training.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_classes: int,
        pool_size: int = 7,
        num_heads: int = 8,
        dynamic_channels: int = 64,
        ffn_channels: int = 2048,
        num_cls_layers: int = 1,
        num_box_layers: int = 3,
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, num_heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(channels)
        self.dynamic_conv = DynamicConv(
            channels=channels, hidden_channels=dynamic_channels, pool_size=pool_size
        )
        self.dynamic_conv_norm = nn.LayerNorm(channels)
        self.ffn = nn.Sequential(
            nn.Linear(channels, ffn_channels),
            nn.ReLU(inplace=True),
            nn.Linear(ffn_channels, channels),
        )
        self.ffn_norm = nn.LayerNorm(channels)
        self.cls_subnet = _branch(channels, num_cls_layers)
        self.bbox_subnet = _branch(channels, num_box_layers)
        self.cls_score = nn.Linear(channels, num_classes)
        self.bbox_pred = nn.Linear(channels, 4)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, regions: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict from the regions and the proposals' features.

        Args:
            regions: (B * P, C, S, S).
            proposals: (B, P, C).

        Returns:
            Class logits (B, P, K), box deltas (B, P, 4), and the new features of the proposals
            (B, P, C).
        """
        attended, _ = self.attention(proposals, proposals, proposals, need_weights=False)
        proposals = self.attention_norm(proposals + attended)
        filtered = self.dynamic_conv(proposals.flatten(0, 1), regions).view_as(proposals)
        proposals = self.dynamic_conv_norm(proposals + filtered)
        proposals = self.ffn_norm(proposals + self.ffn(proposals))
        logits = self.cls_score(self.cls_subnet(proposals))
        return logits, self.bbox_pred(self.bbox_subnet(proposals)), proposals


def _branch(channels: int, num_layers: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [
            nn.Linear(channels, channels, bias=False),
            nn.LayerNorm(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
