"""Builds the two segmentors with the parameters of the golden cases.

What differs between models comes from ``config.json``. What the cases have in common according to
their description is written here.
"""

import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from case_files import Arrays
from detectron2.layers import ShapeSpec
from dino_cases.reader import FILES
from torch import nn

from vit_adapter import TimmViT, ViTAdapter
from vit_adapter.backbone.pyramid_backbone import STRIDES
from vit_adapter.checkpoint import load_strict
from vit_adapter.checkpoint.original import convert, convert_state_dict
from vit_adapter.engine.freezing import freeze_parameters
from vit_adapter.mask2former import (
    Mask2FormerHead,
    MaskedTransformerDecoder,
    MSDeformAttnPixelDecoder,
)


@cache
def names(kind: str) -> dict[str, str]:
    """Our names for the parameters of the segmentor "dinov3" or "dinov2"."""
    return convert(FILES.read(f"{kind}_params")).names


class Segmentor(nn.Module):
    """A backbone and a head, under the names of :class:`vit_adapter.mask2former.Mask2Former`."""

    def __init__(self, backbone: ViTAdapter, head: Mask2FormerHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head


def build(kind: str) -> Segmentor:
    """The segmentor "dinov3" or "dinov2", in evaluation mode and with its ViT fixed.

    The parameters have the default dtype.
    """
    build_parts = {"dinov3": _build_dinov3, "dinov2": _build_dinov2}[kind]
    model = build_parts(FILES.config(kind), FILES.read(f"{kind}_params"))
    freeze_parameters(model, [r"backbone\.vit\."])
    return model.eval()


def _build_dinov3(options: Mapping[str, Any], parameters: Arrays) -> Segmentor:
    taps = options["interaction_indexes"]
    depth = taps[-1] + 1  # later blocks have no effect
    swiglu = re.fullmatch(r"swiglu(\d*)", options["ffn_layer"])
    feed_forward = {"mlp_ratio": options["ffn_ratio"], "swiglu_mlp": False}
    if swiglu:
        align = int(swiglu[1] or 8)
        ratio = 2 / 3 * options["ffn_ratio"]
        feed_forward = {"mlp_ratio": ratio, "swiglu_mlp": True, "swiglu_align_to": align}
    vit = TimmViT(
        name="vit_base_patch16_dinov3_qkvb" if options["qkv_bias"] else "vit_base_patch16_dinov3",
        depth=depth,
        embed_dim=options["embed_dim"],
        final_norm=True,
        model_args={
            "num_heads": options["num_heads"],
            "num_reg_tokens": options["n_storage_tokens"],
            **feed_forward,
        },
    )
    backbone = ViTAdapter(
        vit,
        mode="frozen",
        interaction_indexes=[[a + 1, b] for a, b in pairwise([-1, *taps])],
        conv_inplane=options["conv_inplane"],
        num_points=4,
        deform_num_heads=options["deform_num_heads"],
        deform_ratio=options["deform_ratio"],
        cffn_ratio=0.25,
        vit_feature_fusion="per_interaction",
        norm_taps=True,
        norm_eps=1e-6,
        norm="BN",
    )
    head = _build_head(
        options, width=options["hidden_dim"], heads=options["nheads"], input_width=vit.embed_dim
    )
    model = Segmentor(backbone, head)
    later_blocks = [
        rf"^backbone\.vit\.model\.blocks\.{i}\." for i in range(depth, options["depth"])
    ]
    load_strict(model, convert_state_dict(parameters), later_blocks)
    return model


def _build_dinov2(options: Mapping[str, Any], parameters: Arrays) -> Segmentor:
    swiglu = options["ffn_type"].startswith("swiglu")
    hidden_ratio = options["mlp_ratio"]
    if swiglu:  # two thirds, in multiples of 8, and twice as timm joins two matrices
        width = options["embed_dim"]
        hidden = -(-int(int(width * hidden_ratio) * 2 / 3) // 8) * 8
        hidden_ratio = (2 * hidden + 0.5) / width  # timm rounds down
    vit = TimmViT(
        name="vit_giant_patch14_dinov2" if swiglu else "vit_base_patch14_dinov2",
        patch_size=options["patch_size"],
        img_size=options["img_size"],
        depth=options["depth"],
        embed_dim=options["embed_dim"],
        drop_path_rate=options["drop_path_rate"],
        antialias_positions=False,
        model_args={"num_heads": options["num_heads"], "mlp_ratio": hidden_ratio},
    )
    backbone = ViTAdapter(
        vit,
        mode="full",
        interaction_indexes=options["interaction_indexes"],
        conv_inplane=options["conv_inplane"],
        num_points=4,
        deform_num_heads=options["deform_num_heads"],
        deform_ratio=options["deform_ratio"],
        cffn_ratio=options["cffn_ratio"],
        vit_feature_fusion="per_interaction",
        drop_path_rate=options["drop_path_rate"],
        norm="BN",
    )
    head = _build_head(
        options, width=options["feat"], heads=options["heads"], input_width=vit.embed_dim
    )
    model = Segmentor(backbone, head)
    load_strict(model, convert_state_dict(parameters))
    return model


def _build_head(
    options: Mapping[str, Any], *, width: int, heads: int, input_width: int
) -> Mask2FormerHead:
    common = {"embed_dim": width, "mask_dim": width, "num_heads": heads}
    return Mask2FormerHead(
        pixel_decoder=MSDeformAttnPixelDecoder(
            {name: ShapeSpec(channels=input_width, stride=STRIDES[name]) for name in STRIDES},
            ffn_dim=options["enc_ffn"],
            num_layers=options["enc_layers"],
            **common,
        ),
        transformer_decoder=MaskedTransformerDecoder(
            num_classes=options["num_classes"],
            num_queries=options["num_queries"],
            ffn_dim=options["dec_ffn"],
            num_layers=options["dec_layers"],
            **common,
        ),
    )
