"""Models as functions of tensors."""

import pytest
import torch
from detectron2.config import instantiate
from small_models import make_segmentor
from torch import nn

from vit_adapter import BEiT, TimmViT, model_zoo
from vit_adapter.export.models import exportable, why_one_size


@torch.no_grad()
def test_semantic_scores_are_those_of_the_model() -> None:
    images = 255 * torch.rand(2, 3, 70, 50)
    segmentor = make_segmentor()
    expected = torch.stack([out["sem_seg"] for out in segmentor([{"image": i} for i in images])])
    core = exportable(segmentor)
    (logits,) = core(images)
    assert core.output_names == ("logits",)
    torch.testing.assert_close(logits, expected)


@torch.no_grad()
def test_maps_of_the_backbone_alone() -> None:
    images = 255 * torch.rand(2, 3, 70, 50)
    segmentor = make_segmentor()
    core = exportable(segmentor, backbone_only=True)
    expected = segmentor.backbone((images - segmentor.pixel_mean) / segmentor.pixel_std)
    assert core.output_names == ("res2", "res3", "res4", "res5")
    torch.testing.assert_close(core(images), tuple(expected.values()))


@torch.no_grad()
def test_queries_give_the_segmentation_of_the_model() -> None:
    config = model_zoo.get_config("quick_start/mask2former_vit_adapter_tiny_scratch")
    model = instantiate(config.model).eval()
    images = 255 * torch.rand(1, 3, 64, 96)
    expected = model([{"image": images[0]}])[0]["sem_seg"]
    core = exportable(model)
    assert core.output_names == ("class_logits", "mask_logits")
    classes, masks = core(images)
    scores = torch.einsum("bqk,bqhw->bkhw", classes.softmax(-1)[..., :-1], masks.sigmoid())
    resized = nn.functional.interpolate(scores, size=(64, 96), mode="bilinear")[0]
    torch.testing.assert_close(resized, expected)


def test_every_map_has_more_than_one_cell() -> None:
    """Of a backbone to stride 32, and of pyramids to stride 64 and 128."""
    assert exportable(make_segmentor()).shortest_side == 64
    for name, shortest in (("mask_rcnn", 96), ("atss", 160)):
        config = model_zoo.get_config(f"quick_start/{name}_vit_adapter_tiny_scratch")
        core = exportable(instantiate(config.model), backbone_only=True)
        assert core.shortest_side == shortest


def test_weights_in_16_bits_are_widened() -> None:
    core = exportable(make_segmentor().to(torch.bfloat16))
    assert {p.dtype for p in core.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("vit", "fits_any_size"),
    [
        (BEiT(img_size=64, embed_dim=12, depth=1, num_heads=2), False),
        (
            BEiT(
                img_size=64,
                embed_dim=12,
                depth=1,
                num_heads=2,
                window_sizes=[2],
                class_token=False,
            ),
            True,
        ),
        (TimmViT(name="beit_base_patch16_224", depth=1), False),
    ],
)
def test_tables_of_relative_positions_fit_one_size(vit: nn.Module, fits_any_size: bool) -> None:
    assert (why_one_size(vit) == "") == fits_any_size
