"""Configs as YAML: what is read back, and what is left out."""

import functools
from pathlib import Path

import pytest
from detectron2.config import LazyCall as L, LazyConfig, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn import functional as F

from vit_adapter.config.errors import UsageError
from vit_adapter.config.literals import literals, read_literals
from vit_adapter.config.saving import dump_config, plain_config

OWN = """
import functools
from detectron2.config import LazyCall as L

def function(**arguments): return arguments
class Class: pass

own = dict(function=function, cls=Class, object=Class(), partial=functools.partial(function, x=1),
           nested=[1, [dict(fn=lambda x: x)]], call=L(function)(size=[3]), call_2=L(lambda: 1)())
"""


def save_and_load(cfg: DictConfig, folder: Path) -> tuple[DictConfig, list[str]]:
    text, left_out = dump_config(cfg)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return LazyConfig.load(str(folder / "config.yaml")), left_out


def test_importable_objects_are_read_back(tmp_path: Path) -> None:
    content = {
        "layer": L(nn.Linear)(in_features=1, out_features="${n}"),
        "n": 2,
        "cls": nn.Linear,
        "fn": F.relu,
        "partial": functools.partial(F.dropout, p=0.5),
        "path": Path("a"),
    }
    cfg = DictConfig(content, flags={"allow_objects": True})
    again, left_out = save_and_load(cfg, tmp_path)
    assert left_out == []
    assert again.layer._target_ == "torch.nn.Linear"
    assert instantiate(again.layer).out_features == 2
    assert (again.cls, again.fn, again.path) == (nn.Linear, F.relu, Path("a"))
    assert (again.partial.func, again.partial.keywords) == (F.dropout, {"p": 0.5})


def test_objects_of_one_process_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    again, left_out = save_and_load(LazyConfig.load(str(tmp_path / "own.py")), tmp_path)
    assert left_out == [
        "own.function (function)",
        "own.cls (Class)",
        "own.object (Class)",
        "own.partial (partial)",
        "own.nested.1.0.fn (<lambda>)",
        "own.call (function)",
        "own.call_2 (<lambda>)",
    ]
    assert again.own.call.size == [3]  # everything around them is still read
    nested = again.own.nested[1][0].fn
    for node in (again.own.function, nested, again.own.call, again.own.call_2):
        with pytest.raises(UsageError, match=r"own\..* is missing from .* Give the original"):
            instantiate(node)


@pytest.mark.parametrize("name", ["function", "Class"])
def test_objects_of_a_script_are_left_out(name: str) -> None:
    module = {"__name__": "__main__"}
    exec("def function(): pass\nclass Class: pass", module)
    cfg = DictConfig({"it": module[name]}, flags={"allow_objects": True})
    assert dump_config(cfg)[1] == [f"it ({name})"]


@pytest.mark.parametrize(
    "name",
    [
        *["???", "${price", "${x}", "${oc.env:HOME}", "\\${x}", "\\\\${", "${", "a ${b} c"],
        *["\\", "$", "=", "<<"],
        *["a: b", "#1", "- a", "'", '"', "it's", '"a"', "two\nlines", "\ttab", " a", "a ", "", " "],
        *["1", "1.5", "1e5", "0x1", "1_0", "null", "~", "yes", "No", "true", "2024-01-01"],
        *["[a]", "{a: b}", "&a", "*a", "!a", "%a", "@a", "`a", "|", ">", "?", ",", "---", "..."],
        *["木", "é", "\u0085", "\u2028", "\ufeff", "\U0001f600", "\x07", "\udce4"],
    ],
)
def test_class_names_are_read_back_unchanged(tmp_path: Path, name: str) -> None:
    cfg = OmegaConf.create({"data": {"classes": literals([name, "b"])}})
    assert read_literals(save_and_load(cfg, tmp_path)[0].data.classes) == [name, "b"]


def test_plain_values() -> None:
    content = {"layer": L(nn.Linear)(in_features="${n}"), "n": 2, "more": [F.relu, lambda: 1, None]}
    cfg = DictConfig({**content, "path": Path("a")}, flags={"allow_objects": True})
    plain = plain_config(cfg)
    assert plain["layer"] == {"in_features": 2, "_target_": "torch.nn.Linear"}
    assert plain["more"][0] == "torch.nn.functional.relu" and plain["more"][2] is None
    assert plain["more"][1].endswith("<lambda>")
    assert isinstance(plain["path"], str) and "0x" not in plain["path"]
