"""Weights for RGB images in models of other numbers of channels."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vit_adapter.backbone import PlainViT, TimmViT, UniPerceiver, ViTAdapter
from vit_adapter.checkpoint import CheckpointMismatchError
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.pretrained import load_pretrained_vit

SIZES = dict(img_size=32, embed_dim=12, depth=1, num_heads=3)


def make_vit(kind: str, channels: int, patch_size: int = 16) -> nn.Module:
    if kind == "timm":
        return TimmViT(
            name="vit_tiny_patch16_224", depth=1, in_channels=channels, patch_size=patch_size
        )
    family = {"plain": PlainViT, "uni_perceiver": UniPerceiver}[kind]
    return family(**SIZES, in_channels=channels, patch_size=patch_size)


def make_adapter(channels: int) -> ViTAdapter:
    return ViTAdapter(
        make_vit("plain", channels),
        interaction_indexes=[[0, 0]],
        norm="BN",
        deform_num_heads=3,
        conv_inplane=4,
    )


def kernel(vit: nn.Module) -> torch.Tensor:
    (found,) = (v for k, v in vit.state_dict().items() if k.endswith("patch_embed.proj.weight"))
    return found


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("kind", ["plain", "timm", "uni_perceiver"])
def test_grey_images_keep_the_response_of_pretrained_kernels(kind, channels, tmp_path, caplog):
    rgb, vit = make_vit(kind, 3), make_vit(kind, channels)
    torch.save(rgb.state_dict(), tmp_path / "vit.pth")
    with caplog.at_level(logging.INFO, "vit_adapter"):
        report = load_pretrained_vit(vit, tmp_path / "vit.pth")
    grey = torch.rand(1, 1, 16, 16)
    found = F.conv2d(grey.expand(-1, channels, -1, -1), kernel(vit))
    if channels == 2:  # two of three channels, scaled
        expected = F.conv2d(grey.expand(-1, 2, -1, -1), kernel(rgb)[:, :2] * 1.5)
    elif channels == 5:  # red and green count twice
        weights = torch.tensor([2.0, 2.0, 1.0]).view(1, 3, 1, 1) * 3 / 5
        expected = F.conv2d(grey.expand(-1, 3, -1, -1), kernel(rgb) * weights)
    else:
        expected = F.conv2d(grey.expand(-1, 3, -1, -1), kernel(rgb))
    torch.testing.assert_close(found, expected)
    (entry,) = report.resized
    assert entry.checkpoint_shape[1] == 3 and entry.model_shape[1] == channels
    rule = "summed" if channels == 1 else f"repeated and scaled by 3/{channels}"
    assert f"to {channels} channels, {rule}: {entry.name}" in caplog.text


def test_a_kernel_of_another_size_is_resized_first(tmp_path):
    rgb, vit = make_vit("plain", 3, patch_size=8), make_vit("plain", 6)
    weights = {**rgb.state_dict(), "patch_embed.proj.weight": torch.rand(12, 3, 14, 14)}
    weights["pos_embed"] = vit.pos_embed.detach()
    torch.save(weights, tmp_path / "vit.pth")
    load_pretrained_vit(vit, tmp_path / "vit.pth")
    first, second = kernel(vit).split(3, dim=1)
    torch.testing.assert_close(first, second)


def test_a_checkpoint_for_rgb_starts_a_model_of_five_channels(tmp_path):
    rgb, model = make_adapter(3), make_adapter(5)
    torch.save({"model": rgb.state_dict()}, tmp_path / "rgb.pth")
    with pytest.raises(CheckpointMismatchError, match=r"spm.stem.0.weight: \(4, 3, 3, 3\) in the"):
        Checkpointer(model).load(str(tmp_path / "rgb.pth"))
    Checkpointer(model, inflate=True).load(str(tmp_path / "rgb.pth"))
    for own, source in (
        (model.spm.stem[0].weight, rgb.spm.stem[0].weight),
        (model.vit.patch_embed.proj.weight, rgb.vit.patch_embed.proj.weight),
    ):
        torch.testing.assert_close(own, source[:, [0, 1, 2, 0, 1]] * 3 / 5)
    assert torch.equal(model.spm.fc1.weight, rgb.spm.fc1.weight)


def test_a_checkpoint_of_five_channels_is_loaded_as_it_is(tmp_path, caplog):
    source, model = make_adapter(5), make_adapter(5)
    torch.save({"model": source.state_dict()}, tmp_path / "five.pth")
    with caplog.at_level(logging.INFO, "vit_adapter"):
        Checkpointer(model, inflate=True).load(str(tmp_path / "five.pth"))
    assert "Inflated" not in caplog.text
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_other_channels_are_not_turned_into_rgb(tmp_path):
    torch.save({"model": make_adapter(5).state_dict()}, tmp_path / "five.pth")
    with pytest.raises(CheckpointMismatchError):
        Checkpointer(make_adapter(3), inflate=True).load(str(tmp_path / "five.pth"))
    with pytest.raises(CheckpointMismatchError):
        Checkpointer(make_adapter(4), inflate=True).load(str(tmp_path / "five.pth"))


def test_resuming_never_inflates(tmp_path):
    Checkpointer(make_adapter(3), str(tmp_path)).save("model")
    with pytest.raises(CheckpointMismatchError):
        Checkpointer(make_adapter(5), str(tmp_path), inflate=True).resume_or_load("")
