"""Small parts of Mask2Former with the same weights here and in Hugging Face's implementation."""

import re

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as hf

from vit_adapter.mask2former import (
    HungarianMatcher,
    MaskedTransformerDecoder,
    MaskPredictions,
    MaskTargets,
    MSDeformAttnPixelDecoder,
    SetCriterion,
)

CHANNELS = {"res2": 24, "res3": 40, "res4": 48, "res5": 56}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
DIM, MASK_DIM, HEADS, QUERIES, CLASSES, POINTS = 64, 32, 4, 7, 5, 300

PIXEL_DECODER_NAMES = (
    (r"input_projections\.(\d)\.0", r"input_convs.\1.conv"),
    (r"input_projections\.(\d)\.1", r"input_convs.\1.gn"),
    (r"level_embed", "level_encoding.weight"),
    (r"self_attn_layer_norm", "norm1"),
    (r"final_layer_norm", "norm2"),
    (r"\.fc(\d)", r".ffn.linear\1"),
    (r"mask_projection", "mask_feature"),
    (r"adapter_1\.0", "lateral_convs.0.conv"),
    (r"adapter_1\.1", "lateral_convs.0.gn"),
    (r"layer_1\.0", "output_convs.0.conv"),
    (r"layer_1\.1", "output_convs.0.gn"),
)
TRANSFORMER_NAMES = (
    (r"queries_embedder", "query_embed"),
    (r"queries_features", "query_feat"),
    (r"decoder\.layers", "layers"),
    (r"decoder\.layernorm", "post_norm"),
    (r"decoder\.mask_predictor\.mask_embedder\.(\d)\.0", lambda m: f"mask_embed.{2 * int(m[1])}"),
    (r"cross_attn_layer_norm", "norm1"),
    (r"self_attn_layer_norm", "norm2"),
    (r"final_layer_norm", "norm3"),
    (r"\.fc(\d)", r".ffn.linear\1"),
)


def make_config() -> Mask2FormerConfig:
    return Mask2FormerConfig(
        feature_size=DIM,
        mask_feature_size=MASK_DIM,
        hidden_dim=DIM,
        encoder_feedforward_dim=96,
        dim_feedforward=80,
        encoder_layers=2,
        decoder_layers=5,  # Hugging Face counts the prediction before the first layer
        num_attention_heads=HEADS,
        num_queries=QUERIES,
        num_labels=CLASSES,
        dropout=0.0,
        train_num_points=POINTS,
        no_object_weight=0.1,
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )


def randomise(module: nn.Module) -> None:
    """Draw all weights, so that no parameter can be mixed up unseen."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)


def renamed(state: dict[str, Tensor], rules: tuple) -> dict[str, Tensor]:
    """Our names for Hugging Face's, with its three projections of self-attention in one."""
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    for name in [name for name in result if ".self_attn.q_proj." in name]:
        parts = [result.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        result[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return result


def pyramid(batch: int = 2, height: int = 64, width: int = 96) -> dict[str, Tensor]:
    return {
        name: torch.randn(batch, channels, height // STRIDES[name], width // STRIDES[name])
        for name, channels in CHANNELS.items()
    }


def pixel_decoders(
    config: Mask2FormerConfig,
) -> tuple[MSDeformAttnPixelDecoder, hf.Mask2FormerPixelDecoder]:
    theirs = hf.Mask2FormerPixelDecoder(config, feature_channels=list(CHANNELS.values()))
    randomise(theirs)
    ours = MSDeformAttnPixelDecoder(
        {name: ShapeSpec(channels=CHANNELS[name], stride=STRIDES[name]) for name in CHANNELS},
        embed_dim=DIM,
        mask_dim=MASK_DIM,
        num_heads=HEADS,
        ffn_dim=96,
        num_layers=2,
    )
    ours.load_state_dict(renamed(theirs.state_dict(), PIXEL_DECODER_NAMES))
    return ours, theirs


def transformer_decoders(
    config: Mask2FormerConfig,
) -> tuple[MaskedTransformerDecoder, hf.Mask2FormerTransformerModule, nn.Linear]:
    """Our decoder, Hugging Face's, and its classifier, which is not part of it."""
    theirs = hf.Mask2FormerTransformerModule(DIM, config).eval()
    class_predictor = nn.Linear(DIM, CLASSES + 1)
    randomise(theirs)
    ours = MaskedTransformerDecoder(
        num_classes=CLASSES,
        num_queries=QUERIES,
        embed_dim=DIM,
        mask_dim=MASK_DIM,
        num_heads=HEADS,
        ffn_dim=80,
        num_layers=4,
    )
    state = renamed(theirs.state_dict(), TRANSFORMER_NAMES)
    state |= {f"cls_embed.{name}": x for name, x in class_predictor.state_dict().items()}
    ours.load_state_dict(state)
    return ours, theirs, class_predictor


def criterion() -> SetCriterion:
    return SetCriterion(
        num_classes=CLASSES, matcher=HungarianMatcher(num_points=POINTS), num_points=POINTS
    )


def hf_losses(
    config: Mask2FormerConfig,
    predictions: MaskPredictions,
    targets: list[MaskTargets],
) -> dict[str, Tensor]:
    """Weighted losses of Hugging Face, the pairs of its matching sorted by target as ours are.

    It sorts them by query, and which random points a mask gets depends on its place among them.
    """
    model = hf.Mask2FormerLoss(config, {})
    match = model.matcher.forward
    model.matcher.forward = lambda *inputs: [
        (queries[indices.argsort()], indices.sort()[0]) for queries, indices in match(*inputs)
    ]
    losses = model(
        predictions.mask_logits,
        predictions.class_logits,
        [target.masks.double() for target in targets],
        [target.labels for target in targets],
    )
    return {
        "loss_cls": 2 * losses["loss_cross_entropy"],
        "loss_mask": 5 * losses["loss_mask"],
        "loss_dice": 5 * losses["loss_dice"],
    }
