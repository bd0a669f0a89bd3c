"""The tool that converts checkpoints: what it writes, prints and refuses."""

import json
import logging
import pickle
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from safetensors import safe_open
from safetensors.torch import save_file
from tool_files import load_tool
from torch import Tensor

import vit_adapter
from vit_adapter import model_zoo
from vit_adapter.checkpoint import load_state_dict_file
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.original import revert_state_dict
from vit_adapter.checkpoint.trained_part import FIXED_WEIGHTS

TOOL = Path(vit_adapter.__file__).parents[1] / "tools" / "convert_checkpoint.py"
CONFIG = "quick_start/mask_rcnn_vit_adapter_shapes"
IMAGENET = "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]"
META = f"data = dict(test=dict(pipeline=[dict(type='Normalize', {IMAGENET}, to_rgb=True)]))"


@pytest.fixture(scope="module")
def tool():
    return load_tool("convert_checkpoint")


@pytest.fixture
def convert(tool, monkeypatch, caplog):
    """The tool's main function; ``caplog`` gets the messages."""
    monkeypatch.setattr("vit_adapter.utils.command_line.setup_logger", lambda name: None)
    monkeypatch.setattr(logging.getLogger("vit_adapter"), "propagate", True)
    return lambda *arguments: tool.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """A small detector with the original's names."""
    with torch.random.fork_rng():
        return revert_state_dict(instantiate(model_zoo.get_config(CONFIG).model).state_dict())


@pytest.fixture
def original(weights, tmp_path) -> Path:
    path = tmp_path / "original.pth.tar"
    stored = {f"module.{name}": tensor for name, tensor in weights.items()}
    torch.save({"state_dict": stored, "meta": {"config": META}, "optimizer": {"state": {}}}, path)
    return path


def same(state_dict: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return set(state_dict) == set(expected) and all(
        torch.equal(state_dict[name], tensor) for name, tensor in expected.items()
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_converting_there_and_back(convert, original, weights, tmp_path, capsys, suffix) -> None:
    ours, theirs = tmp_path / f"ours{suffix}", tmp_path / "theirs.pth"
    assert convert(original, ours, "--config-file", CONFIG) == 0
    printed = capsys.readouterr().out
    assert "backbone.pos_embed " in printed and "backbone.bottom_up.vit.pos_embed " in printed
    assert f"{len(weights)} tensors with" in printed
    assert "tree: detection\nvit_feature_fusion: last\npixels: RGB, mean [123.675," in printed
    assert f"every name and shape fits {CONFIG}" in printed

    model = instantiate(model_zoo.get_config(CONFIG).model)
    Checkpointer(model).load(str(ours))
    assert same(revert_state_dict(model.state_dict()), weights)

    assert convert("--reverse", ours, theirs, "--config-file", CONFIG) == 0
    assert same(load_state_dict_file(theirs), weights)
    assert torch.load(theirs)["meta"]["vit_adapter"]["pixels_are_known"] is True


@pytest.mark.parametrize("head", ["upernet", "mask2former"])
def test_segmentors(convert, tmp_path, capsys, head) -> None:
    config = f"quick_start/{head}_vit_adapter_tiny_scratch"
    weights = revert_state_dict(instantiate(model_zoo.get_config(config).model).state_dict())
    torch.save({"state_dict": weights}, tmp_path / "original.pth")
    assert convert(tmp_path / "original.pth", tmp_path / "ours.pth", "--config-file", config) == 0
    assert "tree: segmentation\nvit_feature_fusion: per_interaction\n" in capsys.readouterr().out


def test_sizes_that_differ_from_the_config_are_named(convert, tmp_path, capsys, caplog) -> None:
    config = "quick_start/mask2former_vit_adapter_tiny_scratch"
    weights = revert_state_dict(instantiate(model_zoo.get_config(config).model).state_dict())
    torch.save({"state_dict": weights}, tmp_path / "original.pth")
    assert convert(tmp_path / "original.pth", tmp_path / "ours.pth") == 0
    printed = capsys.readouterr().out
    assert "width of the head 64, heads of the pixel decoder 2, layers of the pixel" in printed
    key = "model.head.pixel_decoder.num_heads"
    arguments = ("--config-file", config, f"{key}=4")
    assert convert(tmp_path / "original.pth", tmp_path / "other.pth", *arguments) == 2
    assert "the checkpoint does not fit the config:\n  heads of the pixel decoder: 2 in the " in (
        caplog.text
    )
    assert f"checkpoint, 4 in the config ({key})\nUse a config" in caplog.text
    assert not (tmp_path / "other.pth").exists()


def test_the_head_of_mask2formers_authors(convert, tmp_path, capsys) -> None:
    config = "quick_start/mask2former_instance_vit_adapter_tiny_scratch"
    model = instantiate(model_zoo.get_config(config).model)
    trained, theirs, ours = (tmp_path / f"{name}.pth" for name in ("trained", "theirs", "ours"))
    torch.save({"model": model.state_dict()}, trained)
    arguments = ("--tree", "mask2former", "--config-file", config)
    assert convert("--reverse", trained, theirs, *arguments) == 0
    assert "sem_seg_head.predictor.query_feat.weight" in capsys.readouterr().out
    assert convert(theirs, ours, "--config-file", config) == 0
    expected = {f"head.{name}": tensor for name, tensor in model.head.state_dict().items()}
    assert same(load_state_dict_file(ours), expected)


def test_pixel_statistics_are_stored_with_the_weights(convert, original, tmp_path) -> None:
    assert convert(original, tmp_path / "ours.pth") == 0
    assert convert(original, tmp_path / "ours.safetensors") == 0
    expected = {
        "tree": "detection",
        "vit_feature_fusion": "last",
        "input_format": "RGB",
        "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375],
        "pixels_are_known": True,
    }
    assert torch.load(tmp_path / "ours.pth")["vit_adapter"] == expected
    with safe_open(tmp_path / "ours.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["vit_adapter"]) == expected


def test_a_config_provides_unknown_pixel_statistics(convert, weights, tmp_path, capsys) -> None:
    torch.save(weights, tmp_path / "bare.pth")
    save_file(weights, tmp_path / "bare.safetensors")
    assert convert(tmp_path / "bare.safetensors", tmp_path / "a.pth", "--config-file", CONFIG) == 0
    assert "(assumed)" in capsys.readouterr().out
    half = [f"model.pixel_{statistic}=[127.5,127.5,127.5]" for statistic in ("mean", "std")]
    arguments = (tmp_path / "bare.pth", tmp_path / "b.pth", "--config-file", CONFIG, *half)
    assert convert(*arguments) == 0
    assert torch.load(tmp_path / "b.pth")["vit_adapter"]["pixel_mean"] == [127.5] * 3
    assert "note: pixel statistics are from the config" in capsys.readouterr().out


def test_a_backbone_alone(convert, weights, tmp_path, caplog) -> None:
    prefix = "backbone."
    backbone = {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
    source, target = tmp_path / "backbone.pth", tmp_path / "ours.pth"
    torch.save(backbone, source)
    assert convert(source, target) == 2
    assert "choose one with --tree detection or --tree segmentation" in caplog.text
    assert convert(source, target, "--tree", "segmentation", "--config-file", CONFIG) == 2
    assert "vit_feature_fusion='last', but the weights are for 'per_interaction'" in caplog.text
    assert not target.exists()
    assert convert(source, target, "--tree", "detection", "--config-file", CONFIG) == 0


def test_a_model_of_another_size_is_refused(convert, original, tmp_path, caplog) -> None:
    target = tmp_path / "ours.pth"
    config = "coco/mask_rcnn_vit_adapter_tiny_deit_3x"
    assert convert(original, target, "--config-file", config) == 2
    assert "does not fit the model" in caplog.text
    assert "only in the model (missing)" in caplog.text
    assert not target.exists()


def test_other_pixel_statistics_are_refused(convert, weights, tmp_path, caplog) -> None:
    source = tmp_path / "half.pth"
    config = META.replace(IMAGENET, "mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]")
    torch.save({"state_dict": weights, "meta": {"config": config}}, source)
    assert convert(source, tmp_path / "ours.pth", "--config-file", CONFIG) == 2
    assert "the weights need RGB, mean [127.5, 127.5, 127.5], std [127.5" in caplog.text
    assert convert(source, tmp_path / "ours.pth") == 0


def test_files_are_replaced_only_with_force(convert, original, tmp_path, caplog) -> None:
    before = original.read_bytes()
    target = tmp_path / "ours.pth"
    target.write_text("precious")
    assert convert(original, target) == 2
    assert "exists; choose another name, or replace it with --force" in caplog.text
    assert target.read_text() == "precious"
    assert convert(original, target, "--force") == 0
    assert convert("--reverse", original, original, "--force") == 2
    assert "are the same file" in caplog.text
    link = tmp_path / "link.pth"
    link.symlink_to(original)
    assert convert(original, link, "--force") == 2
    assert original.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pth", "ours.pth"], "checkpoint 'missing.pth' does not exist"),
        (["original.pth.tar", "ours.bin"], "must end in .pth or .safetensors"),
        (["--reverse", "original.pth.tar", "a.safetensors"], "must end in .pth or .pth.tar"),
        (["original.pth.tar", "nowhere/ours.pth"], "the folder nowhere of OUT does not exist"),
        (
            ["original.pth.tar", "ours.pth", "--config-file", "coco/mask_rcn"],
            "mean coco/mask_rcnn",
        ),
        (["original.pth.tar", "ours.pth", "a=1"], "none is given; add --config-file"),
        (["original.pth.tar", "ours.pth", "--config-file", CONFIG, "a=1"], "unknown key 'a'"),
        (["--reverse", "original.pth.tar", "ours.pth"], "no counterpart in the original's models"),
    ],
)
def test_mistakes_in_the_command_line(
    convert, original, tmp_path, monkeypatch, caplog, arguments, message
) -> None:
    monkeypatch.chdir(tmp_path)
    files = set(tmp_path.iterdir())
    assert convert(*arguments) == 2
    assert message in caplog.text
    assert set(tmp_path.iterdir()) == files


class Traced:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet.pth", "not part of any known .*2 keys.: conv1.weight, layer1.0.bn1.weight"),
        ("retina.pth", "not supported .* another one-stage head"),
        ("truncated.pth", "is damaged, incomplete or not in the format"),
        ("pickle.pkl", "is a pickle: .* refused"),
        ("code.pth", "Reading those would run code from the file, so it is refused"),
        ("list.pth", "holds a list, expected a mapping"),
        ("numbers.pth", "stores a float under 'lr', expected a tensor"),
    ],
)
def test_files_that_are_not_checkpoints_of_the_original(
    convert, original, tmp_path, caplog, name, message
) -> None:
    trace, path = tmp_path / "trace", tmp_path / name
    retina = ("backbone.pos_embed", "bbox_head.retina_cls.bias")
    resnet = ("conv1.weight", "layer1.0.bn1.weight")
    contents = {
        "resnet.pth": dict.fromkeys(resnet, torch.zeros(1)),
        "retina.pth": dict.fromkeys(retina, torch.zeros(1)),
        "code.pth": {"state_dict": Traced(trace)},
        "list.pth": [torch.zeros(1)],
        "numbers.pth": {"lr": 0.1},
    }
    if name == "truncated.pth":
        path.write_bytes(original.read_bytes()[:-1000])
    elif name == "pickle.pkl":
        path.write_bytes(pickle.dumps(Traced(trace)))
    else:
        torch.save(contents[name], path)
    assert convert(path, tmp_path / "ours.pth") == 2
    assert re.search(message, caplog.text)
    assert not (tmp_path / "ours.pth").exists() and not trace.exists()


@pytest.mark.parametrize(
    ("extra", "content"),
    [
        ({FIXED_WEIGHTS: {"source": "vit.pth", "sha256": {}}}, "only the trained part of a model"),
        ({}, "LoRA factors"),
    ],
)
def test_what_has_to_be_merged_first_is_refused(
    convert, original, tmp_path, caplog, extra, content
) -> None:
    ours, theirs = tmp_path / "ours.pth", tmp_path / "theirs.pth"
    assert convert(original, ours) == 0
    state_dict = load_state_dict_file(ours)
    if not extra:
        state_dict["backbone.bottom_up.vit.blocks.0.attn.qkv.lora_a"] = torch.zeros(1)
    torch.save({"model": state_dict, **extra}, ours)
    assert convert("--reverse", ours, theirs) == 2
    assert f"holds {content}; make a complete checkpoint" in caplog.text
    assert "tools/merge_checkpoint.py" in caplog.text and not theirs.exists()


def test_moving_averages(convert, weights, tmp_path, capsys, caplog) -> None:
    averages = {f"ema_{name.replace('.', '_')}": tensor + 1 for name, tensor in weights.items()}
    torch.save({"state_dict": weights | averages}, tmp_path / "original.pth")
    ours, theirs = tmp_path / "ours.pth", tmp_path / "theirs.pth"
    assert convert(tmp_path / "original.pth", ours) == 0
    assert "note: the moving averages (ema_*) are left out" in capsys.readouterr().out
    assert same(revert_state_dict(load_state_dict_file(ours)), weights)
    assert convert(tmp_path / "original.pth", ours, "--ema", "--force") == 0
    assert "left out;" not in capsys.readouterr().out
    expected = {name: tensor + 1 for name, tensor in weights.items()}
    assert same(revert_state_dict(load_state_dict_file(ours)), expected)
    assert convert("--reverse", ours, theirs, "--ema") == 2
    assert "does not go with --reverse" in caplog.text


def test_the_average_of_a_run_is_left_out(convert, original, weights, tmp_path, capsys) -> None:
    ours, theirs = tmp_path / "ours.pth", tmp_path / "theirs.pth"
    assert convert(original, ours) == 0
    stored = torch.load(ours)
    stored["model_ema"] = {name: torch.zeros_like(x) for name, x in stored["model"].items()}
    torch.save(stored, ours)
    capsys.readouterr()
    assert convert("--reverse", ours, theirs) == 0
    assert "note: the moving average (EMA) of the weights is left out" in capsys.readouterr().out
    assert same(load_state_dict_file(theirs), weights)
