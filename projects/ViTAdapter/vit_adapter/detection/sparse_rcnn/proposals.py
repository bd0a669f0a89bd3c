"""The proposals of Sparse R-CNN, which are parameters: the same for every image.

Shapes: P proposals, C channels.
"""

from collections.abc import Mapping, Sequence

import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from vit_adapter.detection.boxes import in_float32

__all__ = ["LearnedProposals"]


class LearnedProposals(nn.Module):
    """Proposes learned boxes, each with learned features, in place of a region proposal network.

    Before training, each box is the whole image, and the features are random.

    Args:
        num_proposals: number P of proposals of an image.
        channels: channels C of the features of a proposal.

    Attributes:
        boxes: embedding (P, 4) of (center x, center y, width, height), as shares of the image.
        features: embedding (P, C).
    """

    def __init__(self, *, num_proposals: int = 300, channels: int = 256) -> None:
        super().__init__()
        self.boxes = nn.Embedding(num_proposals, 4)
        self.features = nn.Embedding(num_proposals, channels)
        nn.init.constant_(self.boxes.weight[:, :2], 0.5)
        nn.init.constant_(self.boxes.weight[:, 2:], 1.0)

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        gt_instances: Sequence[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Scale the boxes to the sizes of the images before padding.

        Args:
            images: only their sizes are used.
            features: not used.
            gt_instances: not used.

        Returns:
            For each image ``proposal_boxes`` (P, 4) and ``proposal_features`` (P, C); no losses.
        """
        proposals = []
        for size in images.image_sizes:
            boxes = Boxes(self.scale_boxes(size))
            proposals.append(
                Instances(size, proposal_boxes=boxes, proposal_features=self.features.weight)
            )
        return proposals, {}

    def scale_boxes(self, image_size: tuple[int, int]) -> Tensor:
        """Boxes (P, 4), as x1, y1, x2, y2 in pixels of an image of (height, width)."""
        height, width = image_size
        centers, sizes = in_float32(self.boxes.weight).split(2, dim=1)
        x, y = torch.stack((centers - sizes / 2, centers + sizes / 2), dim=1).unbind(dim=2)
        return torch.stack((x * width, y * height), dim=2).flatten(1)
