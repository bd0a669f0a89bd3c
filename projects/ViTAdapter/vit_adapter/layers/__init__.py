"""Tensor modules and functions that backbones and heads share; they know nothing of detectors."""

from vit_adapter.layers.cpu.attention import scaled_dot_product_attention
from vit_adapter.layers.cpu.convolution import to_fast_layout
from vit_adapter.layers.cpu.dense import Linear, linear
from vit_adapter.layers.cpu.patch_upsampling import PatchUpsampling
from vit_adapter.layers.deform_attn import MSDeformAttn
from vit_adapter.layers.linear_relu import linear_relu
from vit_adapter.layers.norm import (
    ChannelLayerNorm,
    ConvNormSequential,
    build_norm,
    norm_builder,
    normalise_map,
)
from vit_adapter.layers.pooling import PoolToGrid
from vit_adapter.layers.position import resize_position_embedding
from vit_adapter.layers.pyramid import (
    GridSize,
    PyramidGeometry,
    crop_map,
    fix_traced_size,
    map_to_tokens,
    num_positions,
    pad_to_multiple,
    reference_points,
    resize_map,
    split_levels,
    tokens_to_map,
)
from vit_adapter.layers.windows import window_merge, window_partition

__all__ = [
    "ChannelLayerNorm",
    "ConvNormSequential",
    "GridSize",
    "Linear",
    "MSDeformAttn",
    "PatchUpsampling",
    "PoolToGrid",
    "PyramidGeometry",
    "build_norm",
    "crop_map",
    "fix_traced_size",
    "linear",
    "linear_relu",
    "map_to_tokens",
    "norm_builder",
    "normalise_map",
    "num_positions",
    "pad_to_multiple",
    "reference_points",
    "resize_map",
    "resize_position_embedding",
    "scaled_dot_product_attention",
    "split_levels",
    "to_fast_layout",
    "tokens_to_map",
    "window_merge",
    "window_partition",
]
