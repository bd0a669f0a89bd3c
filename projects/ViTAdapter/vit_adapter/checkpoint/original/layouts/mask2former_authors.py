"""Heads of the models that Mask2Former's authors released, with the names of their code.

Their backbones, ResNets and Swin transformers, are left out. The parameters of the pixel decoder
and the transformer decoder are the same as here.
"""

from vit_adapter.checkpoint.original.layouts.layout import Layout
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["AUTHORS_MASK2FORMER", "TRANSFORMER_DECODER"]

_PIXEL_DECODER = {
    "input_proj.{i}.0.{leaf}": "input_convs.{i}.conv.{leaf}",
    "input_proj.{i}.1.{leaf}": "input_convs.{i}.gn.{leaf}",
    "transformer.level_embed": "level_encoding.weight",
    "transformer.encoder.layers.{i}.self_attn.{*}": "encoder.layers.{i}.self_attn.{*}",
    "transformer.encoder.layers.{i}.linear{n}.{leaf}": "encoder.layers.{i}.ffn.linear{n}.{leaf}",
    "transformer.encoder.layers.{i}.norm{n}.{leaf}": "encoder.layers.{i}.norm{n}.{leaf}",
    "adapter_1.norm.{leaf}": "lateral_convs.0.gn.{leaf}",
    "adapter_1.{leaf}": "lateral_convs.0.conv.{leaf}",
    "layer_1.norm.{leaf}": "output_convs.0.gn.{leaf}",
    "layer_1.{leaf}": "output_convs.0.conv.{leaf}",
    "mask_features.{leaf}": "mask_feature.{leaf}",
}
TRANSFORMER_DECODER = {
    "transformer_cross_attention_layers.{i}.multihead_attn.{*}": "layers.{i}.cross_attn.{*}",
    "transformer_cross_attention_layers.{i}.norm.{leaf}": "layers.{i}.norm1.{leaf}",
    "transformer_self_attention_layers.{i}.self_attn.{*}": "layers.{i}.self_attn.{*}",
    "transformer_self_attention_layers.{i}.norm.{leaf}": "layers.{i}.norm2.{leaf}",
    "transformer_ffn_layers.{i}.linear{n}.{leaf}": "layers.{i}.ffn.linear{n}.{leaf}",
    "transformer_ffn_layers.{i}.norm.{leaf}": "layers.{i}.norm3.{leaf}",
    "decoder_norm.{leaf}": "post_norm.{leaf}",
    "query_feat.{leaf}": "query_feat.{leaf}",
    "static_query.{leaf}": "query_feat.{leaf}",  # in their first files
    "query_embed.{leaf}": "query_embed.{leaf}",
    "level_embed.{leaf}": "level_embed.{leaf}",
    "class_embed.{leaf}": "cls_embed.{leaf}",
    "mask_embed.layers.0.{leaf}": "mask_embed.0.{leaf}",
    "mask_embed.layers.1.{leaf}": "mask_embed.2.{leaf}",
    "mask_embed.layers.2.{leaf}": "mask_embed.4.{leaf}",
}
"""Names of the transformer decoder, which DINOv3's authors use, too."""

_RULES = [
    Rule(f"{theirs}.{their_name}", f"{ours}.{our_name}")
    for theirs, ours, names in (
        ("sem_seg_head.pixel_decoder", "head.pixel_decoder", _PIXEL_DECODER),
        ("sem_seg_head.predictor", "head.transformer_decoder", TRANSFORMER_DECODER),
    )
    for their_name, our_name in names.items()
]

AUTHORS_MASK2FORMER = Layout(
    name="the head of a Mask2Former of its authors",
    tree="mask2former",
    theirs=r"sem_seg_head\.(pixel_decoder|predictor)\.",
    ours=r"head\.(pixel|transformer)_decoder\.",
    example="sem_seg_head.predictor.query_feat.weight",
    rules=lambda names: _RULES,
    left_out={
        r"backbone\.": "only the head is converted",
        r"criterion\.": "follows from the config",
    },
)
