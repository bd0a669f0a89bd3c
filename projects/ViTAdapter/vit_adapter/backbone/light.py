"""Extraction without deformable attention, for the adapter's light mode.

The paper's extractor attends to a few learned points around each prior token. Here each prior token
reads one fixed point, its own position: the ViT's map is projected and resampled to the strides of
the priors, and the convolutional FFN after it does the mixing. Everything is a matrix product, a
convolution, a norm or a bilinear resize, which every exporter and runtime supports. DEIMv2 (arXiv
2509.20787, its spatial tuning adapter) found that a convolutional stem and resampled ViT maps make
a good pyramid without deformable attention; the layers here are our own.

Shapes: B batch, N ViT tokens, S prior tokens (strides 8, 16 and 32), D embed dim.
"""

import torch
from torch import Tensor

from vit_adapter.backbone.interaction import BaseExtractor, InteractionSettings
from vit_adapter.layers import Linear, PyramidGeometry, map_to_tokens, resize_map, tokens_to_map


class LightExtractor(BaseExtractor):
    """Reads the ViT tokens with a linear layer and a bilinear resize to each level.

    Norms and FFN are named as in :class:`Extractor`; ``proj`` replaces the attention.
    """

    def build_reading(self, settings: InteractionSettings) -> None:
        """See :meth:`BaseExtractor.build_reading`."""
        self.feat_norm = settings.norm_layer(settings.embed_dim)
        self.proj = Linear(settings.embed_dim, settings.embed_dim)

    def read(self, prior_tokens: Tensor, vit_tokens: Tensor, geometry: PyramidGeometry) -> Tensor:
        """See :meth:`BaseExtractor.read`."""
        # Both steps are linear: projecting first gives the same numbers from fewer tokens.
        projected = self.proj(self.feat_norm(vit_tokens))
        features = tokens_to_map(projected, geometry.vit_shape)
        levels = [resize_map(features, shape) for shape in geometry.prior_shapes]
        return torch.cat([map_to_tokens(level) for level in levels], 1)
