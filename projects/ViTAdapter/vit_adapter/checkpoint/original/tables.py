"""Which name of the original is which of ours.

A detector's tables hold for the libraries under the original too, so any Mask R-CNN of theirs with
this neck and these heads has the same names. Nothing is transposed or reordered: the classes are in
the same order with the background last, boxes are coded alike, and the first fully connected layer
reads channels, rows, columns in this order on both sides.
"""

from collections.abc import Iterable

from vit_adapter.checkpoint.original.rules import Rule

__all__ = [
    "FIRST_STAGE",
    "IGNORED",
    "KNOWN_MODELS",
    "MASK_RCNN",
    "NUM_OUTPUTS",
    "UNSUPPORTED",
    "backbone_rules",
    "fpn_rules",
    "mask2former_rules",
    "upernet_rules",
]

NUM_OUTPUTS = 4  # of every backbone of the original
FIRST_STAGE = 2  # log2 of the stride of the first

_TRUNK_PARAMETERS = ("pos_embed", "cls_token")
_TRUNK_MODULES = ("patch_embed", "blocks", "layers", "visual_embed")
_ADAPTER_PARAMETERS = ("level_embed",)
_ADAPTER_MODULES = (
    "spm", "interactions", "up", "up1", "up2", "fpn1", "fpn2", "norm1", "norm2", "norm3", "norm4",
)  # fmt: skip


def backbone_rules(theirs: str, ours: str) -> list[Rule]:
    """A backbone: the ViT goes into ``vit``, all else keeps its name.

    Args:
        theirs: what precedes the original's names, "backbone." or nothing.
        ours: what precedes ours, "backbone.bottom_up.", "backbone." or nothing.
    """

    def part(prefix: str, parameters: Iterable[str], modules: Iterable[str]) -> list[Rule]:
        names = [*parameters, *(f"{module}.{{*}}" for module in modules)]
        return [Rule(f"{theirs}{name}", f"{ours}{prefix}{name}") for name in names]

    return [
        *part("vit.", _TRUNK_PARAMETERS, _TRUNK_MODULES),
        *part("", _ADAPTER_PARAMETERS, _ADAPTER_MODULES),
    ]


def _convolution(theirs: str, ours: str) -> list[Rule]:
    """A convolution and the batch norm that may follow it, which Detectron2 keeps inside it."""
    return [
        Rule(f"{theirs}.conv.{{leaf}}", f"{ours}.{{leaf}}"),
        Rule(f"{theirs}.bn.{{leaf}}", f"{ours}.norm.{{leaf}}"),
    ]


def fpn_rules(start_level: int) -> list[Rule]:
    """The pyramid on the outputs from ``start_level`` (0 for stride 4), without extra levels.

    Detectron2 counts by log2 of the stride, the original from zero.
    """
    level = f"{{i+{FIRST_STAGE + start_level}}}"
    return [
        *_convolution("neck.lateral_convs.{i}", f"backbone.fpn_lateral{level}"),
        *_convolution("neck.fpn_convs.{i}", f"backbone.fpn_output{level}"),
    ]


_BOX = "roi_head.bbox_head"
_MASK = "roi_head.mask_head"

MASK_RCNN = [
    # one convolution, or several as in the detectors trained from MAE
    Rule("rpn_head.rpn_conv.{leaf}", "proposal_generator.rpn_head.conv.{leaf}"),
    Rule("rpn_head.rpn_conv.{i}.conv.{leaf}", "proposal_generator.rpn_head.conv.conv{i}.{leaf}"),
    Rule("rpn_head.rpn_cls.{leaf}", "proposal_generator.rpn_head.objectness_logits.{leaf}"),
    Rule("rpn_head.rpn_reg.{leaf}", "proposal_generator.rpn_head.anchor_deltas.{leaf}"),
    *_convolution(f"{_BOX}.shared_convs.{{i}}", "roi_heads.box_head.conv{i+1}"),
    Rule(f"{_BOX}.shared_fcs.{{i}}.{{leaf}}", "roi_heads.box_head.fc{i+1}.{leaf}"),
    Rule(f"{_BOX}.fc_cls.{{leaf}}", "roi_heads.box_predictor.cls_score.{leaf}"),
    Rule(f"{_BOX}.fc_reg.{{leaf}}", "roi_heads.box_predictor.bbox_pred.{leaf}"),
    *_convolution(f"{_MASK}.convs.{{i}}", "roi_heads.mask_head.mask_fcn{i+1}"),
    Rule(f"{_MASK}.upsample.{{leaf}}", "roi_heads.mask_head.deconv.{leaf}"),
    Rule(f"{_MASK}.conv_logits.{{leaf}}", "roi_heads.mask_head.predictor.{leaf}"),
]


def upernet_rules(auxiliary: bool) -> list[Rule]:
    """UPerNet, with or without its auxiliary head, as heads of Detectron2's segmentor."""
    head = "sem_seg_head.main" if auxiliary else "sem_seg_head"
    side = "sem_seg_head.auxiliary"
    return [
        *_convolution("decode_head.psp_modules.{i}.1", f"{head}.psp_modules.{{i}}.1"),
        *_convolution("decode_head.bottleneck", f"{head}.bottleneck"),
        *_convolution("decode_head.lateral_convs.{i}", f"{head}.lateral_convs.{{i}}"),
        *_convolution("decode_head.fpn_convs.{i}", f"{head}.fpn_convs.{{i}}"),
        *_convolution("decode_head.fpn_bottleneck", f"{head}.fpn_bottleneck"),
        Rule("decode_head.conv_seg.{leaf}", f"{head}.conv_seg.{{leaf}}"),
        *_convolution("auxiliary_head.convs.{i}", f"{side}.convs.{{i}}"),
        Rule("auxiliary_head.conv_seg.{leaf}", f"{side}.conv_seg.{{leaf}}"),
    ]


_PIXEL_LAYER = "pixel_decoder.encoder.layers.{i}"
_MASK_LAYER = "transformer_decoder.layers.{i}"
_MASK2FORMER = {
    "pixel_decoder.input_convs.{*}": "pixel_decoder.input_convs.{*}",
    "pixel_decoder.lateral_convs.{*}": "pixel_decoder.lateral_convs.{*}",
    "pixel_decoder.output_convs.{*}": "pixel_decoder.output_convs.{*}",
    "pixel_decoder.mask_feature.{leaf}": "pixel_decoder.mask_feature.{leaf}",
    "pixel_decoder.level_encoding.{leaf}": "pixel_decoder.level_encoding.{leaf}",
    f"{_PIXEL_LAYER}.attentions.0.{{*}}": f"{_PIXEL_LAYER}.self_attn.{{*}}",
    f"{_PIXEL_LAYER}.ffns.0.layers.0.0.{{leaf}}": f"{_PIXEL_LAYER}.ffn.linear1.{{leaf}}",
    f"{_PIXEL_LAYER}.ffns.0.layers.1.{{leaf}}": f"{_PIXEL_LAYER}.ffn.linear2.{{leaf}}",
    f"{_PIXEL_LAYER}.norms.{{n}}.{{leaf}}": f"{_PIXEL_LAYER}.norm{{n+1}}.{{leaf}}",
    f"{_MASK_LAYER}.attentions.0.attn.{{*}}": f"{_MASK_LAYER}.cross_attn.{{*}}",
    f"{_MASK_LAYER}.attentions.1.attn.{{*}}": f"{_MASK_LAYER}.self_attn.{{*}}",
    f"{_MASK_LAYER}.ffns.0.layers.0.0.{{leaf}}": f"{_MASK_LAYER}.ffn.linear1.{{leaf}}",
    f"{_MASK_LAYER}.ffns.0.layers.1.{{leaf}}": f"{_MASK_LAYER}.ffn.linear2.{{leaf}}",
    f"{_MASK_LAYER}.norms.{{n}}.{{leaf}}": f"{_MASK_LAYER}.norm{{n+1}}.{{leaf}}",
    "transformer_decoder.post_norm.{leaf}": "transformer_decoder.post_norm.{leaf}",
    "query_feat.{leaf}": "transformer_decoder.query_feat.{leaf}",
    "query_embed.{leaf}": "transformer_decoder.query_embed.{leaf}",
    "level_embed.{leaf}": "transformer_decoder.level_embed.{leaf}",
    "cls_embed.{leaf}": "transformer_decoder.cls_embed.{leaf}",
    "mask_embed.{*}": "transformer_decoder.mask_embed.{*}",
}


def mask2former_rules(theirs: str) -> list[Rule]:
    """Mask2Former.

    Args:
        theirs: "decode_head" in segmentors, "panoptic_head" in the panoptic detector.
    """
    return [Rule(f"{theirs}.{name}", f"head.{ours}") for name, ours in _MASK2FORMER.items()]


KNOWN_MODELS = ("Mask R-CNN with FPN", "UPerNet", "Mask2Former")

IGNORED = {
    r"ema_\w+$": "the training's copy of another tensor (moving average)",
    r"(backbone\.)?blocks\.\d+\.attn\.relative_position_index$": "follows from the window's size",
}
"""Buffers of the original that no model needs, by pattern, and what they are."""

UNSUPPORTED = {
    r"roi_head\.(semantic_head|semantic_roi_extractor)\.": "the semantic branch of HTC++",
    r"neck\.\d+\.": "the neck of HTC++ (extra attention before the pyramid)",
    r"rpn_head\.init_proposal_": "the proposals of Sparse R-CNN",
    r"roi_head\.(bbox|mask)_head\.\d+\.": "the stages of Cascade Mask R-CNN, HTC++ or Sparse R-CNN",
    r"bbox_head\.atss_": "the head of ATSS",
    r"bbox_head\.(gfl_|integral\.)": "the head of GFL",
    r"bbox_head\.": "a one-stage head such as that of ATSS or GFL",
    r"neck\.convs\.": "the neck without a pyramid (1x1 convolutions alone)",
    r"neck\.fpn_convs\.": "the pyramid's extra levels (strided convolutions)",
    r"segmentation_model\.": "DINOv3's adapter, which reads the normalised outputs of its ViT,",
    r"neck\.": "a neck other than a plain FPN",
}
"""Parts of the original's models that this project has nothing for, by how their names begin.

The first expression that matches the beginning of a name decides.
"""
