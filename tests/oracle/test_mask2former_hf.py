"""Mask2Former equals Hugging Face's, an independent implementation, on the same weights.

Where the original differs from Hugging Face's:

* it divides the mask losses by the number of matched pairs, Hugging Face by the number of targets;
  the two differ only where an image has more targets than there are queries;
* costs that are no numbers stop it, Hugging Face replaces them by the largest number.

Shapes: B batch, C embed dim, Q queries, K classes, T targets, N predictions.
"""

from collections.abc import Iterator

import pytest
import torch
from mask2former_hf import (
    CLASSES,
    POINTS,
    QUERIES,
    criterion,
    hf_losses,
    make_config,
    pixel_decoders,
    pyramid,
    transformer_decoders,
)
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as hf

from vit_adapter.mask2former import HungarianMatcher, MaskPredictions, MaskTargets, SetCriterion


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def config() -> Mask2FormerConfig:
    return make_config()


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
    ours, theirs, class_predictor = transformer_decoders(config)
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
