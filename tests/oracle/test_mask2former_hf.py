"""Mask2Former equals Hugging Face's, an independent implementation, on the same weights.

Where the original differs from Hugging Face's:

* it divides the mask losses by the number of matched pairs, Hugging Face by the number of targets;
  the two differ only where an image has more targets than there are queries;
* costs that are no numbers stop it, Hugging Face replaces them by the largest number.

Shapes: B batch, C embed dim, Q queries, K classes, T targets, N predictions.
"""

import re
from collections.abc import Iterator

import pytest
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


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def config() -> Mask2FormerConfig:
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


def test_pixel_decoder(config: Mask2FormerConfig) -> None:
    ours, theirs = pixel_decoders(config)
    features = pyramid()
    expected = theirs(list(features.values()), output_hidden_states=False)
    actual = ours(features)
    torch.testing.assert_close(actual.mask_features, expected.mask_features)
    for ours_of_level, expected_of_level in zip(
        actual.levels, expected.multi_scale_features, strict=True
    ):
        torch.testing.assert_close(ours_of_level, expected_of_level)


def test_pixel_decoder_gradients(config: Mask2FormerConfig) -> None:
    ours, theirs = pixel_decoders(config)
    gradients = []
    for decode in (ours, lambda features: theirs(list(features.values()))):
        torch.manual_seed(1)
        features = {name: x.requires_grad_() for name, x in pyramid(height=32, width=64).items()}
        mask_features = decode(features)[0 if decode is ours else "mask_features"]
        mask_features.square().sum().backward()
        gradients.append([x.grad for x in features.values()])
    torch.testing.assert_close(*gradients)


def test_transformer_decoder(config: Mask2FormerConfig) -> None:
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

    pixel_decoder, _ = pixel_decoders(config)
    features = pixel_decoder(pyramid())
    expected = theirs(list(features.levels), features.mask_features)
    actual = ours(features, intermediate=True)
    assert len(actual) == 5
    for i, prediction in enumerate(actual):
        hidden = expected.intermediate_hidden_states[i].transpose(0, 1)
        torch.testing.assert_close(prediction.mask_logits, expected.masks_queries_logits[i])
        torch.testing.assert_close(prediction.class_logits, class_predictor(hidden))
    torch.testing.assert_close(ours(features)[-1], actual[-1])


def predictions_and_targets(
    num_targets: tuple[int, ...],
) -> tuple[MaskPredictions, list[MaskTargets]]:
    predictions = MaskPredictions(
        torch.randn(len(num_targets), QUERIES, CLASSES + 1) * 2,
        torch.randn(len(num_targets), QUERIES, 12, 16) * 3,
    )
    targets = [
        MaskTargets(torch.randint(CLASSES, (count,)), torch.rand(count, 48, 64) > 0.6)
        for count in num_targets
    ]
    return predictions, targets


def criterion() -> SetCriterion:
    return SetCriterion(
        num_classes=CLASSES, matcher=HungarianMatcher(num_points=POINTS), num_points=POINTS
    )


@pytest.mark.parametrize("num_targets", [(3, 5), (1, 0), (9, 2)])
def test_matching(config: Mask2FormerConfig, num_targets: tuple[int, ...]) -> None:
    predictions, targets = predictions_and_targets(num_targets)
    theirs = hf.Mask2FormerHungarianMatcher(2.0, 5.0, 5.0, num_points=POINTS)
    torch.manual_seed(5)
    expected = theirs(
        predictions.mask_logits,
        predictions.class_logits,
        [target.masks for target in targets],
        [target.labels for target in targets],
    )
    torch.manual_seed(5)
    matches = HungarianMatcher(num_points=POINTS)([predictions], targets)
    pairs = set()
    first_target = 0
    for image, (queries, indices) in enumerate(expected):
        global_queries = (queries + image * QUERIES).tolist()
        pairs |= set(zip(global_queries, (indices + first_target).tolist(), strict=True))
        first_target += num_targets[image]
    assert len(pairs) == sum(min(count, QUERIES) for count in num_targets)
    assert set(zip(matches.queries[0].tolist(), matches.targets[0].tolist(), strict=True)) == pairs


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


@pytest.mark.parametrize("num_targets", [(3, 5), (1, 0), (9, 2)])
def test_losses(config: Mask2FormerConfig, num_targets: tuple[int, ...]) -> None:
    predictions, targets = predictions_and_targets(num_targets)
    gradients = []
    results = []
    for compute in (
        lambda: criterion()([predictions], targets),
        lambda: hf_losses(config, predictions, targets),
    ):
        for logits in predictions:
            logits.requires_grad_().grad = None
        torch.manual_seed(6)
        losses = compute()
        sum(losses.values()).backward()
        results.append({name: loss.detach() for name, loss in losses.items()})
        gradients.append([logits.grad.clone() for logits in predictions])
    # See the head of this file.
    excess = sum(num_targets) / sum(min(count, QUERIES) for count in num_targets)
    for name in ("loss_mask", "loss_dice"):
        results[1][name] *= excess
    torch.testing.assert_close(*results)
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1] * excess)


def test_deep_supervision_gives_each_prediction_its_own_losses() -> None:
    predictions, targets = predictions_and_targets((3, 2))
    for image, target in enumerate(targets):  # an unambiguous matching
        predictions.class_logits[image, range(len(target.labels)), target.labels] += 20
    weaker = MaskPredictions(*(0.5 * logits.roll(2, dims=1) for logits in predictions))
    exact = SetCriterion(  # points enough to make the draw negligible
        num_classes=CLASSES,
        matcher=HungarianMatcher(num_points=POINTS),
        num_points=40000,
        importance_sample_ratio=0.0,
        oversample_ratio=1.0,
    )
    losses = exact([weaker, predictions], targets)
    assert list(losses) == [
        *("loss_cls_0", "loss_mask_0", "loss_dice_0"),
        *("loss_cls", "loss_mask", "loss_dice"),
    ]
    for suffix, single in (("_0", weaker), ("", predictions)):
        for name, loss in exact([single], targets).items():
            torch.testing.assert_close(losses[name + suffix], loss, rtol=0.02, atol=0)
