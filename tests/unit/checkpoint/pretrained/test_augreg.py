"""Archives of Google's AugReg ViTs, with timm's own reader as the oracle."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.loading import CheckpointMismatchError
from vit_adapter.checkpoint.pretrained import load_pretrained_vit
from vit_adapter.checkpoint.pretrained.augreg import convert_augreg

DIM, DEPTH, HEADS, GRID = 24, 2, 3, 4


def make_trunk() -> PlainViT:
    return PlainViT(img_size=GRID * 16, embed_dim=DIM, depth=DEPTH, num_heads=HEADS)


def make_augreg() -> dict[str, np.ndarray]:
    """Random arrays with the names and shapes of google-research/vision_transformer."""
    generator = np.random.default_rng(0)
    head_dim, hidden = DIM // HEADS, 4 * DIM
    shapes = {
        "cls": (1, 1, DIM),
        "embedding/kernel": (16, 16, 3, DIM),
        "embedding/bias": (DIM,),
        "head/kernel": (DIM, 5),
        "head/bias": (5,),
        "Transformer/posembed_input/pos_embedding": (1, 1 + GRID * GRID, DIM),
        "Transformer/encoder_norm/scale": (DIM,),
        "Transformer/encoder_norm/bias": (DIM,),
    }
    for index in range(DEPTH):
        block = f"Transformer/encoderblock_{index}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes[f"{attention}/{part}/kernel"] = (DIM, HEADS, head_dim)
            shapes[f"{attention}/{part}/bias"] = (HEADS, head_dim)
        shapes[f"{attention}/out/kernel"] = (HEADS, head_dim, DIM)
        shapes[f"{attention}/out/bias"] = (DIM,)
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes[f"{block}/{norm}/scale"] = shapes[f"{block}/{norm}/bias"] = (DIM,)
        for dense, (fan_in, fan_out) in enumerate(((DIM, hidden), (hidden, DIM))):
            shapes[f"{block}/MlpBlock_3/Dense_{dense}/kernel"] = (fan_in, fan_out)
            shapes[f"{block}/MlpBlock_3/Dense_{dense}/bias"] = (fan_out,)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_augreg_archive_is_read_as_timm_reads_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "augreg.npz", **make_augreg())
    oracle = timm.models.VisionTransformer(
        img_size=GRID * 16, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=5
    )
    oracle.load_pretrained(str(tmp_path / "augreg.npz"))
    converted = convert_augreg(
        {name: torch.from_numpy(value) for name, value in make_augreg().items()}
    )
    expected = oracle.state_dict()
    for name in ("head.weight", "head.bias"):  # the classifier is not converted
        expected.pop(name)
    assert set(expected) <= set(converted)
    for name, value in expected.items():
        torch.testing.assert_close(converted[name], value, rtol=0, atol=0)

    trunk = make_trunk()
    report = load_pretrained_vit(trunk, tmp_path / "augreg.npz")
    for name, value in trunk.state_dict().items():
        if "gamma" not in name:  # layer scale, which these models do not have
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    assert {"head.kernel", "cls_token", "norm.weight"} <= set(report.unused)


def test_incomplete_augreg_archive(tmp_path: Path) -> None:
    arrays = make_augreg()
    del arrays["Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias"]
    np.savez(tmp_path / "augreg.npz", **arrays)
    with pytest.raises(CheckpointFileError, match="Dense_0/bias.* in encoderblock_1"):
        load_pretrained_vit(make_trunk(), tmp_path / "augreg.npz")


def test_augreg_archive_without_patch_embedding(tmp_path: Path) -> None:
    arrays = make_augreg()
    del arrays["embedding/kernel"]
    np.savez(tmp_path / "augreg.npz", **arrays)
    with pytest.raises(CheckpointMismatchError, match="missing.*\n  patch_embed.proj.weight"):
        load_pretrained_vit(make_trunk(), tmp_path / "augreg.npz")


def test_hybrid_archive_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "hybrid.npz", **make_augreg(), **{"conv_root/kernel": np.ones(2)})
    with pytest.raises(CheckpointFileError, match="hybrid"):
        load_pretrained_vit(make_trunk(), tmp_path / "hybrid.npz")
