"""Images with another number of channels than three."""

import pytest
import torch

from vit_adapter.backbone import BEiT, PlainViT, TimmViT, UniPerceiver, ViTAdapter
from vit_adapter.backbone.trunk import ViTTrunk

SIZES = dict(img_size=32, embed_dim=12, depth=1, num_heads=3)
TIMM = dict(name="vit_tiny_patch16_224", depth=1)
VITS = {PlainViT: SIZES, BEiT: SIZES, UniPerceiver: SIZES, TimmViT: TIMM}


@pytest.mark.parametrize("family", VITS)
@pytest.mark.parametrize("channels", [1, 5])
def test_every_channel_reaches_vit_and_spatial_prior(family: type[ViTTrunk], channels: int) -> None:
    vit = family(**VITS[family], in_channels=channels)
    model = ViTAdapter(
        vit, interaction_indexes=[[0, 0]], norm="BN", deform_num_heads=3, conv_inplane=4
    )
    assert model.spm.stem[0].in_channels == vit.in_channels == channels
    images = torch.rand(2, channels, 32, 40, requires_grad=True)
    vit.embed(images[..., :32])[0].std().backward()
    assert (images.grad.abs().amax((0, 2, 3)) > 0).all()
    assert model(images)["res2"].shape[-2:] == (8, 10)
    with pytest.raises(ValueError, match=rf"shape \(B, {channels}, H, W\), got \(1, 3, 32, 32\)"):
        model(torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("family", VITS)
def test_no_channels_are_refused(family: type[ViTTrunk]) -> None:
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        family(**VITS[family], in_channels=0)
