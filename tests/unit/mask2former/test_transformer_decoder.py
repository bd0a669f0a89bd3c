"""The transformer decoder: its masked attention, precision, gradients, bad input."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vit_adapter.mask2former import MaskedTransformerDecoder, PixelFeatures
from vit_adapter.mask2former.transformer_decoder import _inside_of_masks, _resize_each

MakeDecoder = Callable[..., MaskedTransformerDecoder]


def pixel_features(batch: int = 2) -> PixelFeatures:
    levels = [torch.randn(batch, 64, 2 * 2**i, 3 * 2**i) for i in range(3)]
    return PixelFeatures(torch.randn(batch, 64, 16, 24), levels)


def test_one_prediction_before_and_after_each_layer(make_decoder: MakeDecoder) -> None:
    decoder, features = make_decoder(), pixel_features()
    predictions = decoder(features, intermediate=True)
    assert len(predictions) == 4
    for prediction in predictions:
        assert prediction.class_logits.shape == (2, 6, 4)
        assert prediction.mask_logits.shape == (2, 6, 16, 24)
    (final,) = decoder(features)
    torch.testing.assert_close(final, predictions[-1])


def test_attends_where_the_resized_mask_is_probable() -> None:
    """Resizing the features once selects the same cells as resizing the masks of each layer."""
    features = pixel_features()
    mask_features = features.mask_features.double()
    embedding = torch.randn(2, 5, 64, dtype=torch.float64)
    masks = torch.einsum("bqc,bchw->bqhw", embedding, mask_features)
    resized = _resize_each(mask_features, features.levels)
    for level, of_level in zip(features.levels, resized, strict=True):
        expected = F.interpolate(masks, level.shape[-2:], mode="bilinear").sigmoid() >= 0.5
        assert torch.equal(_inside_of_masks(embedding, of_level), expected.flatten(2)[:, None])


def test_an_empty_mask_attends_everywhere() -> None:
    features = torch.ones(1, 2, 6)
    embedding = torch.tensor([[[-1.0, -1.0], [1.0, 1.0]]])
    assert _inside_of_masks(embedding, features).all()
    features[..., 3:] = -1
    allowed = _inside_of_masks(embedding, features)[0, 0]
    assert allowed.tolist() == [[False] * 3 + [True] * 3, [True] * 3 + [False] * 3]


def test_cells_outside_the_mask_are_not_read(make_decoder: MakeDecoder) -> None:
    decoder = make_decoder(num_layers=1, num_levels=1)
    features = pixel_features(batch=1)
    (mask_features, levels) = features
    with torch.no_grad():
        decoder.mask_embed[-1].weight.zero_()
        decoder.mask_embed[-1].bias.fill_(1.0)
    mask_features[..., :12] = 1.0  # the left half is inside all masks,
    mask_features[..., 12:] = -1.0
    left = levels[0].clone()
    left[..., 2:] = 0.0  # except at the border between columns 1 and 2 of 3
    read = [
        decoder(PixelFeatures(mask_features, [level]))[0].class_logits
        for level in (levels[0], left)
    ]
    torch.testing.assert_close(*read)
    changed = levels[0].clone()
    changed[..., 0] += 1.0
    other = decoder(PixelFeatures(mask_features, [changed]))[0].class_logits
    assert not torch.allclose(other, read[0], atol=1e-3)


def test_every_parameter_learns(make_decoder: MakeDecoder) -> None:
    decoder = make_decoder()
    predictions = decoder(pixel_features(), intermediate=True)
    sum(x.square().mean() for prediction in predictions for x in prediction).backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(make_decoder: MakeDecoder, dtype: torch.dtype) -> None:
    decoder, features = make_decoder(), pixel_features()
    expected = decoder(features)[-1]
    with torch.autocast("cpu", dtype):
        predictions = decoder(features, intermediate=True)
    sum(x.float().square().mean() for prediction in predictions for x in prediction).backward()
    assert all(p.grad.isfinite().all() for p in decoder.parameters())
    assert predictions[-1].mask_logits.dtype == dtype
    difference = (predictions[-1].class_logits.float() - expected.class_logits).abs().mean()
    assert difference < 0.2 * expected.class_logits.abs().mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_queries": 0}, "num_queries must be at least 1, got 0"),
        ({"num_classes": -1}, "num_classes must be at least 1, got -1"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"num_levels": 0}, "num_levels must be at least 1"),
        ({"mask_dim": 0}, "mask_dim must be at least 1"),
        ({"embed_dim": 30}, "multiple of 4, got 30"),
        ({"num_heads": 5}, "multiple of num_heads, got 64 and 5"),
        ({"ffn_dim": 0}, "at least 1, got 64 and 0"),
    ],
)
def test_arguments_that_do_not_fit(make_decoder: MakeDecoder, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_decoder(**changes)


def test_refuses_too_few_levels(make_decoder: MakeDecoder) -> None:
    mask_features, levels = pixel_features()
    with pytest.raises(ValueError, match="at least 3 levels, got 2"):
        make_decoder()(PixelFeatures(mask_features, levels[:2]))


def masks_of(decoder: MaskedTransformerDecoder, features: PixelFeatures) -> Tensor:
    return decoder(features)[-1].mask_logits


def test_additional_levels_are_ignored(make_decoder: MakeDecoder) -> None:
    mask_features, levels = features = pixel_features()
    decoder = make_decoder()
    more = PixelFeatures(mask_features, [*levels, torch.randn(2, 64, 16, 24)])
    torch.testing.assert_close(masks_of(decoder, more), masks_of(decoder, features))


@pytest.mark.parametrize("num_layers", [1, 4])  # also fewer than levels
def test_inference_projects_the_memory_as_training_does(
    make_decoder: MakeDecoder, num_layers: int
) -> None:
    decoder, features = make_decoder(num_layers=num_layers, num_levels=3), pixel_features()
    for _ in range(2):
        expected = decoder(features)[-1]
        with torch.no_grad():
            torch.testing.assert_close(tuple(decoder(features)[-1]), tuple(expected))
            for layer in decoder.layers:  # no merged weights may be kept
                layer.cross_attn.in_proj_weight.mul_(2)
