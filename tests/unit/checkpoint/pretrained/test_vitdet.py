"""Detectors with Detectron2's ViTDet, read into timm's ViT of SAM."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vit_adapter import TimmViT
from vit_adapter.checkpoint.loading import CheckpointMismatchError
from vit_adapter.checkpoint.pretrained import load_pretrained_vit

DIM, HEADS, DEPTH = 48, 3, 3
BLOCK = {
    "norm1.weight": (DIM,), "norm1.bias": (DIM,), "norm2.weight": (DIM,), "norm2.bias": (DIM,),
    "attn.qkv.weight": (3 * DIM, DIM), "attn.qkv.bias": (3 * DIM,),
    "attn.proj.weight": (DIM, DIM), "attn.proj.bias": (DIM,),
    "mlp.fc1.weight": (4 * DIM, DIM), "mlp.fc1.bias": (4 * DIM,),
    "mlp.fc2.weight": (DIM, 4 * DIM), "mlp.fc2.bias": (DIM,),
}  # fmt: skip
HEAD_NAMES = {
    "backbone.simfp_2.0.weight", "backbone.simfp_4.norm.weight",
    "proposal_generator.rpn_head.conv.conv0.weight", "roi_heads.box_head.fc1.weight",
    "roi_heads.mask_head.predictor.bias",
}  # fmt: skip


def vitdet_checkpoint(global_side: int = 64, window: int = 14) -> dict[str, Tensor]:
    """Positions of 14 x 14 patches with a class row; block 2 is global."""
    torch.manual_seed(0)
    shapes = {
        "patch_embed.proj.weight": (DIM, 3, 16, 16), "patch_embed.proj.bias": (DIM,),
        "pos_embed": (1, 1 + 14 * 14, DIM),
    }  # fmt: skip
    for index in range(DEPTH):
        side = global_side if index == 2 else window
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in BLOCK.items()}
        for axis in "hw":
            shapes[f"blocks.{index}.attn.rel_pos_{axis}"] = (2 * side - 1, DIM // HEADS)
    encoder = {f"backbone.net.{name}": torch.randn(shape) for name, shape in shapes.items()}
    return encoder | {name: torch.randn(4) for name in HEAD_NAMES}


def make_vit(**options: object) -> TimmViT:
    heads = {"num_heads": HEADS}
    return TimmViT(
        name="samvit_base_patch16", depth=DEPTH, embed_dim=DIM, model_args=heads, **options
    )


def save(state_dict: dict[str, Tensor], folder: Path) -> Path:
    torch.save({"model": state_dict}, folder / "vitdet.pth")
    return folder / "vitdet.pth"


def test_only_the_encoder_of_a_detector_is_loaded(tmp_path: Path) -> None:
    checkpoint = vitdet_checkpoint()
    vit = make_vit()
    report = load_pretrained_vit(vit, save(checkpoint, tmp_path))
    assert set(report.unused) == HEAD_NAMES
    assert report.missing == ()
    assert [str(entry) for entry in report.resized] == [
        "model.pos_embed: (1, 197, 48) -> (1, 64, 64, 48)"
    ]
    weights = vit.model.state_dict()
    grid = checkpoint["backbone.net.pos_embed"][:, 1:].view(1, 14, 14, DIM).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(64, 64), mode="bicubic", align_corners=False)
    torch.testing.assert_close(weights.pop("pos_embed"), expected.permute(0, 2, 3, 1))
    for key, value in weights.items():
        assert torch.equal(value, checkpoint[f"backbone.net.{key}"]), key


def test_relative_positions_of_any_length_are_resized(tmp_path: Path) -> None:
    checkpoint = vitdet_checkpoint(global_side=32, window=16)
    vit = make_vit()
    report = load_pretrained_vit(vit, save(checkpoint, tmp_path))
    assert {entry.name for entry in report.resized} >= {
        f"model.blocks.{index}.attn.rel_pos_{axis}" for index in range(DEPTH) for axis in "hw"
    }
    source = checkpoint["backbone.net.blocks.2.attn.rel_pos_w"]
    loaded = vit.model.blocks[2].attn.rel_pos_w
    assert loaded.shape == (127, DIM // HEADS)
    for row in (0, 40, 63, 126):
        place = (row + 0.5) * 63 / 127 - 0.5  # centres of cells, linearly between neighbours
        low = min(max(int(place // 1), 0), 62)
        share = min(max(place - low, 0.0), 1.0)
        expected = source[low] * (1 - share) + source[min(low + 1, 62)] * share
        torch.testing.assert_close(loaded[row], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_global_attention_has_decomposed_positions(tmp_path: Path) -> None:
    """The bias of a pair: query times the vectors of its vertical and horizontal distance."""
    checkpoint = vitdet_checkpoint(global_side=4)
    vit = make_vit(img_size=64).eval()
    load_pretrained_vit(vit, save(checkpoint, tmp_path))
    part = {
        name: checkpoint[f"backbone.net.blocks.2.attn.{name}"].double()
        for name in ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias", "rel_pos_h", "rel_pos_w")
    }
    tokens = torch.randn(16, DIM, dtype=torch.float64)
    query, key, value = (
        (tokens @ part["qkv.weight"].T + part["qkv.bias"])
        .view(16, 3, HEADS, DIM // HEADS)
        .unbind(1)
    )
    mixed = torch.zeros_like(query)
    for head in range(HEADS):
        logits = query[:, head] @ key[:, head].T * (DIM // HEADS) ** -0.5
        for i in range(16):
            for j in range(16):
                down, right = i // 4 - j // 4 + 3, i % 4 - j % 4 + 3
                offset = part["rel_pos_h"][down] + part["rel_pos_w"][right]
                logits[i, j] += query[i, head] @ offset
        mixed[:, head] = logits.softmax(-1) @ value[:, head]
    expected = mixed.flatten(1) @ part["proj.weight"].T + part["proj.bias"]
    computed = vit.model.blocks[2].attn.double()(tokens.view(1, 4, 4, DIM)).view(16, DIM)
    torch.testing.assert_close(computed, expected)


def test_a_name_outside_the_known_parts_is_refused(tmp_path: Path) -> None:
    name = "backbone.net.blocks.0.residual.conv1.weight"
    checkpoint = vitdet_checkpoint() | {name: torch.ones(1)}
    with pytest.raises(CheckpointMismatchError, match=r"backbone\.net\.blocks\.0\.residual"):
        load_pretrained_vit(make_vit(), save(checkpoint, tmp_path))
