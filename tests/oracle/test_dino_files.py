"""The tool that converts checkpoints, on the files of DINOv2's and DINOv3's authors."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dino_keys import DINOV2, HEAD_FILE, VIT, VIT_FILE, WHOLE_L, join, small
from safetensors.torch import load_file
from tool_files import load_tool

import vit_adapter

TOOL = Path(vit_adapter.__file__).parents[1] / "tools" / "convert_checkpoint.py"
UNREAD = ("mask_token", "local_cls_norm.weight", "local_cls_norm.bias")
Tool = Callable[..., int]


@pytest.fixture
def convert(monkeypatch, caplog) -> Tool:
    """The tool's main function; ``caplog`` gets the messages."""
    tool = load_tool("convert_checkpoint")
    monkeypatch.setattr("vit_adapter.utils.command_line.setup_logger", lambda name: None)
    monkeypatch.setattr(logging.getLogger("vit_adapter"), "propagate", True)
    return lambda *arguments: tool.main([str(argument) for argument in arguments])


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    """DINOv3's head file and ViT file."""
    head, vit = tmp_path / "dinov3_m2f_head.pth", tmp_path / "dinov3_pretrain.pth"
    torch.save(small(HEAD_FILE), head)
    torch.save(small(VIT_FILE), vit)
    return head, vit


def test_dinov3_in_two_files_there_and_back(convert, files, tmp_path, capsys) -> None:
    head, vit = files
    ours, new_head, new_vit = (tmp_path / name for name in ("ours.pth", "head.pth", "vit.pth"))
    assert convert(head, ours, "--backbone", vit) == 0
    printed = capsys.readouterr().out
    assert f"{VIT}mask_token" in printed and "left out: the segmentor does not read it" in printed
    assert "1086 tensors with" in printed and "3 left out, 0 added" in printed
    assert "tree: dinov3\nvit_feature_fusion: per_interaction\npixels: RGB, mean [123.6" in printed
    assert "(assumed)" not in printed
    assert "width of the ViT 8, blocks of the ViT 40" in printed
    assert "layers of the transformer decoder 9, " in printed

    assert convert("--reverse", ours, new_head, "--backbone", new_vit) == 0
    printed = capsys.readouterr().out
    assert "(added)" in printed and "initial values; the segmentor does not read it" in printed
    assert f"written: {new_head} and {new_vit}" in printed
    assert_same(torch.load(new_head), small(HEAD_FILE))
    assert_same(torch.load(new_vit), small(VIT_FILE), skip=UNREAD)


def assert_same(loaded: dict, expected: dict, skip: tuple[str, ...] = ()) -> None:
    assert set(loaded) == set(expected)
    for name in set(expected) - set(skip):
        assert torch.equal(loaded[name], expected[name]), name


def test_dinov3_in_one_file_there_and_back(convert, tmp_path) -> None:
    torch.save(small(WHOLE_L), tmp_path / "whole.pth")
    assert convert(tmp_path / "whole.pth", tmp_path / "ours.safetensors") == 0
    assert convert("--reverse", tmp_path / "ours.safetensors", tmp_path / "back.pth") == 0
    assert_same(torch.load(tmp_path / "back.pth"), small(WHOLE_L), skip=(f"{VIT}mask_token",))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_dinov2_there_and_back(convert, tmp_path, capsys, suffix) -> None:
    theirs, ours, back = (tmp_path / name for name in ("m2f.pth", f"ours{suffix}", "back.pth"))
    torch.save({"meta": {}, "state_dict": small(DINOV2)}, theirs)
    assert convert(theirs, ours) == 0
    printed = capsys.readouterr().out
    assert "tree: dinov2\nvit_feature_fusion: per_interaction\n" in printed
    assert "1175 tensors with" in printed and "0 left out, 0 added" in printed
    stored = load_file(ours) if suffix == ".safetensors" else torch.load(ours)["model"]
    assert stored["backbone.vit.model.blocks.39.mlp.fc1.weight"].shape == (128, 24)
    assert convert("--reverse", ours, back) == 0
    assert_same(torch.load(back)["state_dict"], small(DINOV2))


def test_each_of_the_two_files_needs_the_other(convert, files, tmp_path, caplog) -> None:
    head, vit = files
    ours = tmp_path / "ours.pth"
    assert convert(head, ours) == 2
    assert "this is the file of DINOv3's adapter and head, ..._m2f_head-*.pth" in caplog.text
    assert "the ViT's own file, ..._pretrain_*.pth" in caplog.text
    assert "--backbone FILE" in caplog.text
    caplog.clear()
    assert convert(vit, ours) == 2
    assert "IN holds DINOv3's ViT alone" in caplog.text and "--backbone FILE" in caplog.text
    assert not ours.exists()


def test_files_that_do_not_belong_together(convert, files, tmp_path, caplog) -> None:
    head, vit = files
    ours, other = tmp_path / "ours.pth", tmp_path / "other.pth"

    def refused(source: Path, backbone: Path) -> str:
        caplog.clear()
        assert convert(source, ours, "--backbone", backbone) == 2
        assert not ours.exists()
        return caplog.text

    assert "has no rope_embed.periods" in refused(head, head)
    torch.save(small(DINOV2), other)
    assert "--backbone is only for DINOv3's segmentor" in refused(other, vit)
    torch.save(join(small(HEAD_FILE), small(VIT_FILE)), other)
    assert "IN already holds a ViT" in refused(other, vit)
    large = {
        name.removeprefix(VIT): tensor for name, tensor in small(WHOLE_L).items() if VIT in name
    }
    torch.save(large, other)
    assert "for a ViT of width 8, but this ViT has a width of 16" in refused(head, other)


def test_reversing_to_two_files_is_only_for_dinov3(convert, tmp_path, caplog) -> None:
    theirs, ours, back, vit = (
        tmp_path / f"{name}.pth" for name in ("theirs", "ours", "back", "vit")
    )
    torch.save(small(DINOV2), theirs)
    assert convert(theirs, ours) == 0
    assert convert("--reverse", ours, back, "--backbone", vit) == 2
    assert "--backbone is only for DINOv3's segmentor" in caplog.text
    assert convert("--reverse", ours, back, "--backbone", back) == 2
    assert "OUT and the file of --backbone are the same" in caplog.text
    assert convert("--reverse", ours, back, "--backbone", theirs) == 2
    assert f"{theirs} exists" in caplog.text
    assert not back.exists() and not vit.exists()


def test_both_files_are_written_or_neither(convert, files, tmp_path, caplog, monkeypatch) -> None:
    head, vit = files
    ours, new_head, new_vit = (tmp_path / name for name in ("ours.pth", "head.pth", "vit.pth"))
    assert convert(head, ours, "--backbone", vit) == 0
    save, saved = torch.save, []

    def fill_the_disk(content: dict, stream: object) -> None:
        save(content, stream)
        saved.append(content)
        if len(saved) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    assert convert("--reverse", ours, new_head, "--backbone", new_vit) == 2
    assert "No space left on device" in caplog.text
    assert sorted(tmp_path.iterdir()) == sorted([head, vit, ours])


def test_models_that_dinov3_does_not_have_are_not_reversed(
    convert, files, tmp_path, caplog
) -> None:
    head, vit = files
    ours, back = tmp_path / "ours.pth", tmp_path / "back.pth"
    assert convert(head, ours, "--backbone", vit) == 0
    weights = torch.load(ours)["model"]
    torch.save(weights | {"backbone.interactions.0.injector.gamma": torch.zeros(8)}, ours)
    assert convert("--reverse", ours, back) == 2
    assert "only adapters with mode='frozen' can be converted" in caplog.text
    del weights["backbone.vit.model.norm.weight"]
    torch.save(weights, ours)
    assert convert("--reverse", ours, back) == 2
    assert "only models whose ViT has final_norm=True can be converted" in caplog.text


def test_a_dinov2_without_swiglu_is_not_reversed(convert, tmp_path, caplog) -> None:
    theirs, ours = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    torch.save(small(DINOV2), theirs)
    assert convert(theirs, ours) == 0
    weights = torch.load(ours)["model"]
    plain = {name: x.repeat(1, 2) if "mlp.fc2.weight" in name else x for name, x in weights.items()}
    torch.save(plain, ours)
    assert convert("--reverse", ours, tmp_path / "back.pth") == 2
    assert "the blocks of this ViT have a plain MLP" in caplog.text
