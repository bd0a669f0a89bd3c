"""Overrides: valid ones are applied, and the messages for wrong ones say what is right."""

import re
from pathlib import Path

import pytest
from detectron2.config import LazyCall as L, LazyConfig
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.config.errors import UsageError
from vit_adapter.config.literals import read_literals
from vit_adapter.config.overrides import apply_overrides


def build(name: str = "full", size: int = 3, ratio: float = 1.0, scope: None = None) -> None:
    """Stands in for what a node instantiates."""


@pytest.fixture()
def cfg() -> DictConfig:
    """A config with a key of each kind."""
    return OmegaConf.create(
        {
            "model": L(nn.Linear)(in_features=2, out_features="${model.in_features}"),
            "head": L(build)(),
            "train": {
                "max_iter": 10,
                "output_dir": "./output",
                "init_checkpoint": "",
                "freeze": [],
                "amp": {"enabled": False},
                "steps": [1, 2],
                "checkpointer": {"max_to_keep": 3},
                "best": {"metric": "", "patience": 3},
            },
            "data": {
                "train_images": "",
                "val_json": None,
                "classes": "",
                "crop_size": [64, 64],
                "steps": [{"size": 3}, {"size": 4}],
            },
            "dataloader": {"names": "coco", "total_batch_size": 16, "ratios": [0.5, 2]},
            "optimizer": {"lr": 1e-4, "weight_decay": 0},
            "inference": "${train.output_dir}/inference",
        },
        flags={"allow_objects": True},
    )


def test_overrides_are_applied(cfg: DictConfig) -> None:
    apply_overrides(
        cfg,
        ["train.max_iter=3", "train.amp.enabled=True", "model.in_features=7", "train.steps=[5]"],
    )
    assert cfg.train.max_iter == 3
    assert cfg.train.amp.enabled is True
    assert cfg.model.out_features == 7
    assert cfg.train.steps == [5]


def test_parameter_that_the_config_does_not_mention(cfg: DictConfig) -> None:
    assert apply_overrides(cfg, ["model.bias=False"]).model.bias is False


def test_entry_of_a_list(cfg: DictConfig) -> None:
    assert apply_overrides(cfg, ["data.steps.1.size=9"]).data.steps[1].size == 9
    with pytest.raises(UsageError, match=r"list of 2 entries; use data\.steps\.0 to .*\.1"):
        apply_overrides(cfg, ["data.steps.2=9"])


def test_entry_of_an_empty_list(cfg: DictConfig) -> None:
    with pytest.raises(UsageError, match=r"list of 0 entries; use train\.freeze=\[\.\.\.\]"):
        apply_overrides(cfg, ["train.freeze.0=a"])


def test_plus_on_an_existing_key_keeps_its_type(cfg: DictConfig) -> None:
    assert apply_overrides(cfg, ["+train.output_dir=2024_01_01"]).train.output_dir == "2024_01_01"
    with pytest.raises(UsageError, match="train.max_iter must be a whole number"):
        apply_overrides(cfg, ["+train.max_iter=many"])


def test_plus_adds_a_new_key(cfg: DictConfig) -> None:
    assert apply_overrides(cfg, ["+train.note=abc"]).train.note == "abc"


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("train.max_iters=3", "train.max_iter"),
        ("trian.max_iter=3", "train.max_iter"),
        ("max_iter=3", "train.max_iter"),
        ("model.infeatures=3", "model.in_features"),
        ("train.amp.enable=True", "train.amp.enabled"),
        ("train.max_iter.x=3", "train.max_iter"),
    ],
)
def test_unknown_key_suggests_similar_ones(cfg: DictConfig, override: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"unknown key.*Did you mean .*{near}"):
        apply_overrides(cfg, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_iter", "is not of the form key=value"),
        ("data (copy)/a=1", "is not of the form key=value"),
        ("--max-iter=3", "unknown option"),
        ("~train.max_iter=10", "not supported"),
        ("train.max_iter=1,2", "has several values"),
        ("train.steps=[1", r"cannot read the override train.steps=\[1 .*train.steps=\[1, 2\]"),
        ("train.max_iter=5 (five)", r"cannot read the override train.max_iter=5 \(five\) "),
        ("train.output_dir=???", r"train.output_dir=\?\?\?: .* missing"),
        ("train.output_dir=${nowhere}", "train.output_dir=.*nowhere.* refers to nothing"),
        ("dataloader.names=[a,${nowhere}]", "dataloader.names=.*nowhere.* refers to nothing"),
    ],
)
def test_override_that_cannot_be_read(cfg: DictConfig, override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        apply_overrides(cfg, ["train.amp.enabled=True", override])
    assert "amp" not in str(error.value)  # the valid override is not blamed


@pytest.mark.parametrize(
    "text",
    [
        *["2024_01_01", "20240101", "007", "1e5", "0x10", "-1", "1.", "inf", "NaN", "true"],
        *["False", "run=1", "a=b=c", "data (copy)", "f(x)", "int(5)", "Bäume_木", "a b", " a "],
        *["a,b", "[old]", "{a: 1}", "a]b", "it's", '"', "\"a\",'b'", "~", "a~b", "$a", "$$"],
        *["${price", "\\", "C:\\data\\", "a\\=b"],
        *["#1", "a: b", "*", "&a", "!x", "%d", "a|b", "a;b"],
        *["line\nbreak", ""],
    ],
)
def test_path_is_taken_as_typed(cfg: DictConfig, tmp_path: Path, text: str) -> None:
    keys = ["train.output_dir", "train.init_checkpoint", "data.train_images", "data.val_json"]
    apply_overrides(cfg, [f"{key}={text}" for key in keys])
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    for key in keys:
        assert OmegaConf.select(cfg, key) == OmegaConf.select(again, key) == text


def test_path_in_the_home_folder(cfg: DictConfig) -> None:
    apply_overrides(cfg, ["train.output_dir=~/runs"])  # the shell does not expand this ~
    assert cfg.train.output_dir == str(Path.home() / "runs")


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_around_a_text_are_removed(cfg: DictConfig, quote: str) -> None:
    apply_overrides(cfg, [f"train.output_dir={quote}a, b\\{quote}{quote}"])
    assert cfg.train.output_dir == f"a, b{quote}"
    apply_overrides(cfg, [f"dataloader.names={quote}null{quote}"])
    assert cfg.dataloader.names == "null"


def test_interpolations_are_resolved(cfg: DictConfig) -> None:
    later = ["train.max_iter=3", "dataloader.total_batch_size=${data.crop_size.0}"]
    apply_overrides(cfg, ["train.output_dir=run_${train.max_iter}", *later])
    assert cfg.inference == "run_3/inference"
    assert cfg.dataloader.total_batch_size == 64
    apply_overrides(cfg, ["train.output_dir=run_\\${x}"])
    assert cfg.inference == "run_${x}/inference"


@pytest.mark.parametrize("key", ["train.init_checkpoint", "data.train_images", "dataloader.names"])
def test_null_is_not_a_text(cfg: DictConfig, key: str) -> None:
    apply_overrides(cfg, [f"{key}=null"])
    assert OmegaConf.select(cfg, key) is None


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("[1,2_0,null,true]", ["1", "2_0", "null", "true"]),
        ("[ a b , \"c, d\",'e' ,f(x),]", ["a b", "c, d", "e", "f(x)"]),
        ("[a[0],it's,x=1]", ["a[0]", "it's", "x=1"]),
        ("[]", []),
        ("1", "1"),
    ],
)
@pytest.mark.parametrize("key", ["data.classes", "train.freeze", "dataloader.names"])
def test_list_of_texts(cfg: DictConfig, key: str, text: str, texts: list[str] | str) -> None:
    apply_overrides(cfg, [f"{key}={text}"])
    assert OmegaConf.select(cfg, key) == texts


def test_class_names_are_not_interpolations(cfg: DictConfig) -> None:
    names = ["${price", "${train.max_iter}", "${oc.env:HOME}", "\\${x}", "???"]
    apply_overrides(cfg, [f"data.classes=[{','.join(names)}]"])
    assert read_literals(cfg.data.classes) == names


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.max_iter=1e3", 1000),
        ("train.max_iter=1_000", 1000),
        ("train.amp.enabled=1", True),
        ("train.amp.enabled=FALSE", False),
        ("train.freeze=", []),
        ("train.freeze=null", []),
        ("train.checkpointer.max_to_keep=null", None),
        ("train.best.patience=null", None),
        ("train.best.metric=bbox/AP", "bbox/AP"),
        ("train.steps=[]", []),
        ("data.crop_size=[32,${train.max_iter}]", [32, 10]),
        ("dataloader.ratios=[1,2.5]", [1, 2.5]),
        ("optimizer.lr=1", 1),
        ("optimizer.weight_decay=0.05", 0.05),
        ("optimizer.weight_decay=[1,2]", [1, 2]),
        ("optimizer.lr=null", None),
        ("train.checkpointer.max_to_keep=null", None),
        ("head.name=123", "123"),
        ("head.size=7", 7),
        ("head.scope=1.5", 1.5),
        ("+train.scope=1.5", 1.5),
        ("train.amp={enabled: true}", {"enabled": True}),
    ],
)
def test_value_of_the_right_type(cfg: DictConfig, override: str, value: object) -> None:
    key = override.partition("=")[0].lstrip("+")
    found = OmegaConf.select(apply_overrides(cfg, [override]), key)
    assert found == value
    assert type(found) is type(value) or OmegaConf.is_config(found)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.max_iter=ten", "a whole number, such as train.max_iter=10"),
        ("train.max_iter=2.5", "a whole number"),
        ("train.max_iter=inf", "a whole number"),
        ("train.max_iter=true", "a whole number"),
        ("train.max_iter=", "a whole number"),
        ("train.max_iter=null", "a whole number"),
        ("train.max_iter=[1]", "a whole number"),
        ('train.max_iter="10"', "a whole number"),
        ("dataloader.total_batch_size=2.5", "a whole number"),
        ("data.steps.0.size=x", "a whole number"),
        ("optimizer.lr=abc", "a number, such as optimizer.lr=0.0001"),
        ("optimizer.lr=1e-4x", "a number"),
        ("optimizer.lr=nan", "a number"),
        ("head.size=big", "a number, such as head.size=3"),
        ("train.amp.enabled=no", "true or false"),
        ("train.amp.enabled=2", "true or false"),
        ("train.steps=5", r"a list of whole numbers in brackets, such as train.steps=\[1,2\]"),
        ("train.steps=[a]", "a list of whole numbers"),
        ("data.crop_size=[64,0.5]", "a list of whole numbers"),
        ("dataloader.ratios=[a]", "a list of numbers"),
        ("train.amp=true", r"a group of keys \(enabled\)"),
        ("train.amp=[]", r"a group of keys \(enabled\)"),
        ("train=null", "a group of keys"),
        ("model=null", "a group of keys"),
        ("optimizer=null", "a group of keys"),
        ("model.in_features=two", "a number"),
    ],
)
def test_value_of_another_type(cfg: DictConfig, override: str, expected: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(UsageError, match=f"{re.escape(override)}: {key} must be {expected}"):
        apply_overrides(cfg, [override])
