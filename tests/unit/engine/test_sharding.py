"""``train.parallel=fsdp``: what it refuses, and real processes that compare it with ``ddp``."""

from pathlib import Path

import pytest
import torch
from forked import run_group
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter import BEiT, PlainViT, TimmViT
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.config.errors import UsageError
from vit_adapter.engine import parallel, sharding

PROGRAM = Path(__file__).with_name("compare_sharding.py")
SMALL = {"embed_dim": 24, "depth": 2}


def config(way: str) -> DictConfig:
    return OmegaConf.create({"train": {"parallel": way}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "checks"),
    [
        (2, ["interchange", "folders", "float32", "float64", "bfloat16"]),
        (4, ["folders"]),
    ],
)
def test_equals_ddp(processes: int, checks: list[str]) -> None:
    run_group(PROGRAM, checks, processes=processes)


def test_one_process_keeps_the_whole_model() -> None:
    model = nn.Linear(2, 2)
    assert parallel.parallelise(config("fsdp"), model) is model
    assert not parallel.is_sharded(model)
    with parallel.whole_model(model) as inner:
        assert inner is model


def test_unknown_way() -> None:
    with pytest.raises(UsageError, match="train.parallel='zero' is unknown; expected ddp or fsdp"):
        parallel.parallelise(config("zero"), nn.Linear(1, 1))


def test_old_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "fully_shard", None)
    with pytest.raises(UsageError, match="needs PyTorch 2.6 or later"):
        sharding.shard(nn.Linear(1, 1))


def test_single_numbers_are_refused() -> None:
    model = nn.Linear(2, 2)
    model.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UsageError, match=r"single number.* 1 of them \(scale, ...\)"):
        sharding.shard(model)


def modules_of(vit: ViTTrunk, *parts: str) -> list[nn.Module]:
    return [vit.get_submodule(part) for part in parts]


def test_units_are_what_a_trunk_calls() -> None:
    vit = PlainViT(num_heads=2, **SMALL)
    assert list(vit.sharding_units()) == modules_of(vit, "blocks.0", "blocks.1")
    vit = BEiT(num_heads=2, img_size=32, **SMALL)
    assert list(vit.sharding_units()) == modules_of(vit, "blocks.0", "blocks.1")
    heads = {"model_args": {"num_heads": 2}}
    vit = TimmViT(name="vit_tiny_patch16_224", window_sizes=[2, 0], **SMALL, **heads)
    parts = "model.blocks.0.attn", "model.blocks.0.mlp", "model.blocks.1"
    assert list(vit.sharding_units()) == modules_of(vit, *parts)
    vit = TimmViT(name="beit_base_patch16_224", **SMALL, **heads)
    parts = "model.blocks.0.mlp", "model.blocks.1.mlp"
    assert list(vit.sharding_units()) == modules_of(vit, *parts)
