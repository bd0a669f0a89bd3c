"""Global attention on the coarsest map of a backbone, before the feature pyramid.

Shapes: B batch, C channels, H/W image sides in pixels, h/w sides of a map.
"""

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from timm.models.vision_transformer import Block
from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from vit_adapter.layers import map_to_tokens, tokens_to_map


class ExtraAttention(Backbone):
    """Runs a transformer block and a layer norm on the last output of a backbone.

    Attention is global over the cells of the map, without positions. All other outputs pass
    unchanged.

    Args:
        bottom_up: the backbone.
        num_heads: attention heads; must divide the channels of the last output.
        mlp_ratio: hidden width of the MLP relative to the channels.
        drop_path_rate: stochastic depth of both branches, in [0, 1).
        use_checkpoint: recompute the block in the backward pass instead of storing its activations.

    Raises:
        ValueError: the heads do not divide the channels, or the rate is outside [0, 1).
    """

    def __init__(
        self,
        *,
        bottom_up: Backbone,
        num_heads: int = 32,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        shapes = bottom_up.output_shape()
        self.in_feature = max(shapes, key=lambda name: shapes[name].stride)
        channels = shapes[self.in_feature].channels
        if num_heads < 1 or channels % num_heads or not 0 <= drop_path_rate < 1:
            raise ValueError(
                f"num_heads must divide the {channels} channels of {self.in_feature!r} and "
                f"drop_path_rate be in [0, 1), got {num_heads} and {drop_path_rate}"
            )
        self.bottom_up = bottom_up
        self.use_checkpoint = use_checkpoint
        self.block = Block(
            channels,
            num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=True,
            drop_path=drop_path_rate,
            norm_layer=nn.LayerNorm,  # its epsilon is 1e-5, that of timm's own 1e-6
        )
        self.final_norm = nn.LayerNorm(channels)
        for module in self.block.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def size_divisibility(self) -> int:
        """The multiple of pixels to which images are padded: that of the backbone."""
        return self.bottom_up.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The same, in the form that later versions of Detectron2 ask for."""
        return {"size_divisibility": self.size_divisibility}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the backbone's outputs of images (B, C, H, W), as name -> (B, C, h, w)."""
        features = self.bottom_up(images)
        last = features[self.in_feature]
        tokens = map_to_tokens(last)
        if self.use_checkpoint and is_grad_enabled():
            tokens = checkpoint(self.block, tokens, use_reentrant=False)
        else:
            tokens = self.block(tokens)
        # Contiguous for the batch norms that may follow: see the backbone's maps.
        attended = tokens_to_map(self.final_norm(tokens), last.shape[-2:]).contiguous()
        return {**features, self.in_feature: attended}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of the outputs: those of the backbone."""
        return self.bottom_up.output_shape()
