"""The benchmark of whole models, from the command line."""

import json
import logging
from types import ModuleType

import pytest
import torch
from tool_files import load_tool

import vit_adapter

NAME = "quick_start/mask_rcnn_vit_adapter_shapes"


@pytest.fixture
def tool(monkeypatch) -> ModuleType:
    tool = load_tool("benchmark")
    monkeypatch.setattr("vit_adapter.utils.command_line.setup_logger", lambda name: None)
    return tool


def test_measures_and_writes_every_file(tool, tmp_path, capsys):
    files = {kind: tmp_path / f"result.{kind}" for kind in ("json", "markdown", "picture")}
    files["picture"] = tmp_path / "result.png"
    options = ["--sizes", "64x96", "--repeats", "1", "--device", "cpu", "--compare"]
    options += [
        "--profile",
        "--variants",
        "float32",
        "bf16",
        "--threads",
        str(torch.get_num_threads()),
    ]
    for kind, file in files.items():
        options += [f"--{kind}", str(file)]
    assert tool.main([NAME, "model.roi_heads.box_predictor.test_topk_per_image=7", *options]) == 0
    content = json.loads(files["json"].read_text())
    machine, records = content["machine"], content["records"]
    assert machine["threads"] == torch.get_num_threads()
    assert machine["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert machine["versions"]["vit_adapter"] == vit_adapter.__version__
    assert {"processor", "instruction_set", "operator", "bfloat16", "load"} < set(machine)
    assert [(r["precision"], r["plain_op"]) for r in records] == [
        ("float32", False),
        ("bf16", False),
        ("float32", True),
        ("bf16", True),
    ]
    assert all(r["size"] == [64, 96] and len(r["times_ms"]) == 1 for r in records)
    assert all(r["operations_ms"] for r in records)
    parts = {"ViT", "spatial prior", "interactions", "pyramid", "neck", "roi_heads"}
    assert parts < set(records[0]["components_ms"])
    table = files["markdown"].read_text()
    assert table in capsys.readouterr().out
    assert machine["text"] in table and f"| {NAME} |" in table
    assert files["picture"].stat().st_size > 10_000


def test_failed_variants_are_named_in_the_exit_status(tool, monkeypatch, capsys):
    record = {"error": "RuntimeError: no memory", "config": NAME, "size": [64, 64]}
    record |= {"batch_size": 1, "training": False, "precision": "float32", "mode": "eager"}
    record |= {"plain_op": False, "parameters": 1, "flops": 1}
    monkeypatch.setattr(tool, "build_subject", lambda name, **options: name)
    monkeypatch.setattr(tool, "measure_together", lambda *args, **options: [dict(record)])
    assert tool.main([NAME]) == 1
    assert "no memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_config"], "No config is named"),
        (["train.device=cpu"], "expected CONFIG"),
        ([NAME, NAME, "--weights", "model.pth"], "belong to one model"),
        ([NAME, "--compare", "--weights", "model.pth"], "belong to one model"),
        ([NAME, "--device", "cpu", "--variants", "bf16,graph"], "--device cuda"),
        ([NAME, "model.typo=1"], "typo"),
        ([NAME, "--profile"], "give both"),
        ([NAME, "--json", "no_such_folder/a.json"], "its folder does not exist"),
    ],
)
def test_mistakes(arguments, message, tool, caplog):
    with caplog.at_level(logging.ERROR, logger="vit_adapter.benchmark"):
        assert tool.main(arguments) == 2
    assert message in caplog.text


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("0", "0 is not at least 1"),
        *((size, f"'{size}' is not a size in pixels") for size in ("12x", "x", "1x2x3")),
        ("-5", "-5 is not at least 1"),
    ],
)
def test_sizes_that_are_none(size, message, tool, capsys):
    with pytest.raises(SystemExit):
        tool.build_parser().parse_args([NAME, "--sizes", size])
    assert message in capsys.readouterr().err


def test_unknown_variant(tool, capsys):
    with pytest.raises(SystemExit):
        tool.build_parser().parse_args([NAME, "--variants", "fp8"])
    assert "expected float32, bf16, fp16" in capsys.readouterr().err
