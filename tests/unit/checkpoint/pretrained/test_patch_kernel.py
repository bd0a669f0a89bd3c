"""Patch kernels at another patch size."""

import pytest
import torch
import torch.nn.functional as F

from vit_adapter.backbone import PlainViT
from vit_adapter.checkpoint.pretrained.patch_kernel import fit_patch_kernel, resize_patch_kernel
from vit_adapter.checkpoint.pretrained.reader import TrunkWeights

NAME = "patch_embed.proj.weight"


def test_the_pseudo_inverse_keeps_the_tokens_of_enlarged_patches() -> None:
    kernel = torch.randn(5, 3, 14, 14, dtype=torch.float64)
    patch = torch.randn(1, 3, 14, 14, dtype=torch.float64)
    enlarged = F.interpolate(patch, size=(16, 16), mode="bicubic", antialias=True)
    resized = resize_patch_kernel(kernel, 16, "pseudo_inverse")
    expected = F.conv2d(patch, kernel)
    torch.testing.assert_close(F.conv2d(enlarged, resized), expected, atol=1e-4, rtol=1e-4)


def test_only_the_pseudo_inverse_keeps_the_token_of_a_constant_patch() -> None:
    kernel = torch.rand(5, 3, 14, 14)
    total = kernel.sum((1, 2, 3))
    resized = resize_patch_kernel(kernel, 16, "pseudo_inverse").sum((1, 2, 3))
    torch.testing.assert_close(resized, total, rtol=1e-3, atol=1e-3)
    growth = resize_patch_kernel(kernel, 16, "bilinear").sum((1, 2, 3)) / total
    torch.testing.assert_close(growth, torch.full((5,), (16 / 14) ** 2), rtol=0.02, atol=0)


def test_the_dtype_stays() -> None:
    kernel = torch.randn(2, 3, 14, 14).half()
    for method in ("pseudo_inverse", "bilinear"):
        assert resize_patch_kernel(kernel, 16, method).dtype == torch.float16


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match="one of .*'bilinear'.*, got 'nearest'"):
        resize_patch_kernel(torch.zeros(1, 3, 14, 14), 16, "nearest")
    vit = PlainViT(img_size=32, embed_dim=8, depth=1, num_heads=1)
    with pytest.raises(ValueError, match="got 'nearest'"):  # even if nothing is resized
        fit_patch_kernel(vit, TrunkWeights({}), "nearest")


@pytest.mark.parametrize(
    ("shape", "resized"),
    [
        ((8, 3, 14, 14), True),
        ((8, 3, 16, 16), False),
        ((8, 3, 32, 32), False),  # its patches show twice as much
        ((8, 3, 8, 8), False),
        ((8, 3, 14, 16), False),
        ((8, 768), False),
    ],
)
def test_only_kernels_of_similar_size_are_resized(shape: tuple[int, ...], resized: bool) -> None:
    vit = PlainViT(img_size=32, embed_dim=8, depth=1, num_heads=1)
    given = TrunkWeights({"pos_embed": torch.zeros(1), NAME: torch.ones(shape)})
    fitted = fit_patch_kernel(vit, given, "bilinear")
    assert list(fitted.state_dict) == list(given.state_dict)
    assert fitted.resized == (((NAME, shape, (8, 3, 16, 16)),) if resized else ())
    assert fitted.state_dict[NAME].shape == ((8, 3, 16, 16) if resized else shape)
