"""A plain ViT as a backbone with a single output, for pyramids that are made from one map.

Shapes: B batch, H/W image sides in pixels, D embed dim.
"""

from torch import Tensor

from vit_adapter.backbone.pyramid_backbone import PyramidBackbone
from vit_adapter.backbone.trunk import ViTTrunk, check_patch_size
from vit_adapter.layers import tokens_to_map

_OUTPUT = "res4"


class SingleScaleViT(PyramidBackbone):
    """The patches after the last block of a ViT, as they are, in one map of stride 16: "res4".

    Args:
        vit: the ViT, patch size 16.

    Raises:
        ValueError: the patch size is not 16.
    """

    def __init__(self, vit: ViTTrunk) -> None:
        super().__init__(vit, out_features=[_OUTPUT])
        check_patch_size(vit)

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """See :meth:`PyramidBackbone.compute`."""
        tokens, grid = self.vit(images)
        patches = tokens[:, self.vit.num_prefix_tokens :]
        return {_OUTPUT: tokens_to_map(patches, grid).contiguous()}
