"""Weights of BEiT for the trunk, with timm's BEiT as the oracle."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from vit_adapter.backbone import BEiT, PlainViT
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.loading import CheckpointMismatchError
from vit_adapter.checkpoint.pretrained import load_pretrained_vit
from vit_adapter.layers.relative_position import resize_offsets

DIM, DEPTH, HEADS, GRID = 24, 2, 3, 4
ROWS = 7 * 7 + 3
TABLE = "blocks.{}.attn.relative_position_bias_table"


def make_timm(**options: object) -> nn.Module:
    settings = {"use_rel_pos_bias": True, "use_abs_pos_emb": False, "qkv_bias": True} | options
    model = timm.models.Beit(
        img_size=GRID * 16, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=5,
        init_values=0.1, **settings,
    )  # fmt: skip
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make_trunk(**options: object) -> BEiT:
    return BEiT(
        **{"img_size": GRID * 16, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, **options}
    ).eval()


def save(state_dict: dict[str, Tensor], folder: Path, container: str = "model") -> Path:
    torch.save({container: state_dict} if container else state_dict, folder / "beit.pth")
    return folder / "beit.pth"


@torch.no_grad()
def assert_same_features(trunk: BEiT, oracle: nn.Module) -> None:
    images = torch.randn(2, 3, GRID * 16, GRID * 16)
    expected = oracle.forward_intermediates(
        images, norm=False, output_fmt="NLC", intermediates_only=True
    )[-1]
    torch.testing.assert_close(trunk(images)[0][:, 1:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("container", ["model", "state_dict", "module", ""])
def test_every_container_of_the_original_is_read(tmp_path: Path, container: str) -> None:
    oracle, trunk = make_timm(), make_trunk()
    weights = oracle.state_dict()
    if container == "module":
        weights = {f"module.{name}": value for name, value in weights.items()}
    report = load_pretrained_vit(trunk, save(weights, tmp_path, container))
    assert_same_features(trunk, oracle)
    assert report.missing == report.resized == ()
    assert {"head.weight", "head.bias"} <= set(report.unused)
    assert all(name.startswith(("head.", "norm.", "fc_norm.")) for name in report.unused)


def test_a_table_shared_by_all_blocks_is_copied_to_each(tmp_path: Path) -> None:
    oracle, trunk = make_timm(use_rel_pos_bias=False, use_shared_rel_pos_bias=True), make_trunk()
    weights = {
        **oracle.state_dict(),
        "mask_token": torch.zeros(1, 1, DIM),
        "lm_head.weight": torch.zeros(8, DIM),
    }
    weights["rel_pos_bias.relative_position_index"] = torch.zeros(17, 17, dtype=torch.long)
    load_pretrained_vit(trunk, save(weights, tmp_path))
    shared = oracle.rel_pos_bias.relative_position_bias_table
    for block in trunk.blocks:
        assert torch.equal(block.attn.relative_position_bias_table, shared)
    assert_same_features(trunk, oracle)


def test_index_buffers_are_skipped(tmp_path: Path) -> None:
    weights = make_timm().state_dict()
    index = "blocks.0.attn.relative_position_index"
    weights[index] = torch.zeros(17, 17, dtype=torch.long)
    assert index in load_pretrained_vit(make_trunk(), save(weights, tmp_path)).unused


@pytest.mark.parametrize("img_size", [96, (32, 80)])
def test_tables_are_resized_and_reported(
    tmp_path: Path, img_size: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Loading into a trunk of another size gives what a forward pass at that size computes."""
    path = save(make_timm().state_dict(), tmp_path)
    native, other = make_trunk(), make_trunk(img_size=img_size)
    load_pretrained_vit(native, path)
    with caplog.at_level(logging.INFO, logger="vit_adapter"):
        report = load_pretrained_vit(other, path)
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    rows = (2 * height // 16 - 1) * (2 * width // 16 - 1) + 3
    assert report.resized == tuple(
        (TABLE.format(i), (ROWS, HEADS), (rows, HEADS)) for i in range(DEPTH)
    )
    assert f"{TABLE.format(1)}: {(ROWS, HEADS)} -> {(rows, HEADS)}" in caplog.text
    images = torch.randn(1, 3, height, width)
    with torch.no_grad():
        torch.testing.assert_close(other(images)[0], native(images)[0], atol=1e-5, rtol=1e-5)


def test_detectors_drop_the_class_token_and_its_rows(tmp_path: Path) -> None:
    weights = make_timm().state_dict()
    trunk = make_trunk(class_token=False, window_sizes=[GRID, 6])
    report = load_pretrained_vit(trunk, save(weights, tmp_path))
    assert "cls_token" in report.unused
    tables = [weights[TABLE.format(i)][:-3] for i in range(DEPTH)]
    expected = [tables[0], resize_offsets(tables[1], (GRID, GRID), (6, 6))]
    for block, table in zip(trunk.blocks, expected, strict=True):
        torch.testing.assert_close(block.attn.relative_position_bias_table.data, table)
    assert [entry.model_shape[0] for entry in report.resized] == [49, 121]


def test_tables_of_a_detector_are_read_too(tmp_path: Path) -> None:
    source = make_trunk(class_token=False, window_sizes=[3, 3])
    weights = {name: torch.randn_like(value) for name, value in source.state_dict().items()}
    larger = make_trunk(class_token=False, window_sizes=[3, 5])
    report = load_pretrained_vit(larger, save(weights, tmp_path))
    assert [entry.name for entry in report.resized] == [TABLE.format(1)]


def _drop(name: str) -> object:
    return lambda weights: weights.pop(name)


def _set(name: str, *shape: int) -> object:
    return lambda weights: weights.update({name: torch.ones(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("blocks.1.attn.q_bias"), r"missing.*\n  blocks.1.attn.q_bias"),
        (_drop(TABLE.format(1)), rf"missing.*\n  {TABLE.format(1)}"),
        (_set("blocks.2.norm1.weight", DIM), r"unused.*\n  blocks.2.norm1.weight"),
        (_set("patch_embed.proj.weight", DIM, 3, 32, 32), r"misshapen.*\n  patch_embed.proj"),
        (_set("blocks.0.norm1.weight", 32), r"misshapen.*\n  blocks.0.norm1.weight"),
        (_set(TABLE.format(0), 50, HEADS), r"misshapen.*\n  blocks.0[^\n]*\nTables of a square"),
        (_set(TABLE.format(0), 49, HEADS), r"misshapen.*\n  blocks.0[^\n]*\nTables of a square"),
        (_set(TABLE.format(0), ROWS, 4), r"misshapen.*\n  blocks.0[^\n]*\nTables of a square"),
        (_set("pos_embed", 1, 17, DIM), r"unused.*\n  pos_embed"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: object, message: str) -> None:
    weights = make_timm().state_dict()
    change(weights)
    trunk = make_trunk()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    with pytest.raises(CheckpointMismatchError, match=message):
        load_pretrained_vit(trunk, save(weights, tmp_path))
    torch.testing.assert_close(trunk.state_dict(), before, rtol=0, atol=0)


def test_a_shared_table_beside_tables_per_block_is_refused(tmp_path: Path) -> None:
    weights = make_timm().state_dict()
    shared = "rel_pos_bias.relative_position_bias_table"
    weights[shared] = torch.ones(ROWS, HEADS)
    with pytest.raises(CheckpointMismatchError, match=f"unused.*\n  {shared}"):
        load_pretrained_vit(make_trunk(), save(weights, tmp_path))


def test_layer_scale_that_the_trunk_does_not_have_is_refused(tmp_path: Path) -> None:
    path = save(make_timm().state_dict(), tmp_path)
    with pytest.raises(CheckpointMismatchError, match=r"blocks\.0\.gamma_1"):
        load_pretrained_vit(make_trunk(init_values=None), path)


def test_beit_is_not_a_plain_vit_and_vice_versa(tmp_path: Path) -> None:
    plain = PlainViT(img_size=GRID * 16, embed_dim=DIM, depth=DEPTH, num_heads=HEADS)
    with pytest.raises(CheckpointFileError, match="BEiT or BEiT v2, but the model has a PlainViT"):
        load_pretrained_vit(plain, save(make_timm().state_dict(), tmp_path))
    with pytest.raises(CheckpointFileError, match=r"holds a plain ViT, but the model has a BEiT\."):
        load_pretrained_vit(make_trunk(), save(plain.state_dict(), tmp_path))
