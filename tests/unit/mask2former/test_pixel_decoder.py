"""The pixel decoder: shapes, odd sizes, precision, compilation, bad input."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vit_adapter.mask2former import MSDeformAttnPixelDecoder, PixelFeatures
from vit_adapter.ops import extension_info, functional

MakeDecoder = Callable[..., MSDeformAttnPixelDecoder]
MakeFeatures = Callable[..., dict[str, Tensor]]


def all_maps(features: PixelFeatures) -> list[Tensor]:
    return [features.mask_features, *features.levels]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 70)])
def test_shapes(
    make_pixel_decoder: MakeDecoder, make_features: MakeFeatures, height: int, width: int
) -> None:
    features = make_features(height=height, width=width)
    output = make_pixel_decoder(mask_dim=16)(features)
    assert output.mask_features.shape == (2, 16, *features["res2"].shape[-2:])
    sizes = [level.shape for level in output.levels]
    assert sizes == [(2, 64, *features[name].shape[-2:]) for name in ("res5", "res4", "res3")]


@pytest.mark.parametrize("num_encoder_levels", [1, 2, 4])
def test_any_number_of_levels(
    make_pixel_decoder: MakeDecoder, make_features: MakeFeatures, num_encoder_levels: int
) -> None:
    decoder = make_pixel_decoder(num_encoder_levels=num_encoder_levels)
    output = decoder(make_features())
    assert len(output.levels) == num_encoder_levels
    assert output.mask_features.shape[-2:] == (16, 24)
    assert len(decoder.output_convs) == 4 - num_encoder_levels


def test_images_of_a_batch_do_not_mix(
    make_pixel_decoder: MakeDecoder, make_features: MakeFeatures
) -> None:
    decoder, features = make_pixel_decoder(), make_features()
    together = decoder(features)
    alone = decoder({name: x[1:] for name, x in features.items()})
    torch.testing.assert_close(
        [x[1:] for x in all_maps(together)], all_maps(alone), rtol=1e-4, atol=1e-5
    )


def test_positions_follow_the_level_encoding(
    make_pixel_decoder: MakeDecoder, make_features: MakeFeatures
) -> None:
    decoder, features = make_pixel_decoder(), make_features(batch=1)
    for _ in range(2):
        expected = all_maps(decoder(features))
        with torch.no_grad():
            for _ in range(2):  # the second call may read what the first one kept
                torch.testing.assert_close(all_maps(decoder(features)), expected)
            decoder.level_encoding.weight.add_(1)


def test_every_parameter_learns(
    make_pixel_decoder: MakeDecoder, make_features: MakeFeatures
) -> None:
    decoder = make_pixel_decoder()
    for parameter in decoder.parameters():  # initially, no offset depends on the queries
        parameter.data += 0.02 * torch.randn_like(parameter)
    maps = all_maps(decoder(make_features()))
    sum((x * torch.randn_like(x)).sum() for x in maps).backward()
    unused = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


def test_bfloat16_is_as_precise_as_pytorchs(
    make_features: MakeFeatures,
    make_pixel_decoder: MakeDecoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the compiled operator, the error is at most twice that of plain PyTorch in bfloat16."""
    if extension_info()["backends"]["cpu"] != "kernel":
        pytest.skip("needs the extension")
    decoder = make_pixel_decoder(num_layers=6)
    features = make_features()
    with torch.no_grad():
        exact = all_maps(decoder(features))
        with torch.autocast("cpu", torch.bfloat16):
            compiled = all_maps(decoder(features))
            monkeypatch.setattr(functional, "_backend", lambda device_type: "reference")
            plain = all_maps(decoder(features))
    for ours, theirs, expected in zip(compiled, plain, exact, strict=True):
        assert not torch.equal(ours, theirs)  # two different computations
        for measure in (torch.mean, torch.max):
            error = measure((ours - expected).abs())
            assert error <= 2 * measure((theirs - expected).abs())


def test_compiles_into_one_graph(
    make_pixel_decoder: MakeDecoder, make_features: MakeFeatures
) -> None:
    decoder = make_pixel_decoder(num_layers=1).eval()
    features = make_features(batch=1, height=32, width=64)
    with torch.no_grad():
        expected = all_maps(decoder(features))
        compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")
        actual = all_maps(compiled(features))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 48}, "positive multiple of 32, the groups of the norms, got 48"),
        ({"embed_dim": 0}, "positive multiple of 32"),
        ({"num_heads": 5}, "multiple of the 5 deformable heads"),
        ({"num_layers": 0}, "num_layers and mask_dim must be at least 1, got 0 and 64"),
        ({"mask_dim": 0}, "num_layers and mask_dim must be at least 1, got 2 and 0"),
        ({"num_encoder_levels": 5}, "must be 1 to 4, the number of feature maps, got 5"),
        ({"num_encoder_levels": 0}, "must be 1 to 4"),
    ],
)
def test_arguments_that_do_not_fit(
    make_pixel_decoder: MakeDecoder, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_pixel_decoder(**changes)


def test_names_missing_maps(make_pixel_decoder: MakeDecoder, make_features: MakeFeatures) -> None:
    features = make_features()
    del features["res2"]
    with pytest.raises(ValueError, match=r"\['res2'\] are missing, got \['res3'"):
        make_pixel_decoder()(features)
