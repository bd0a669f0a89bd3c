"""What a run starts from: pre-trained weights, a checkpoint, or an earlier run."""

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.checkpoint import load_state_dict_file
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.config.errors import UsageError
from vit_adapter.config.weights import base_weights, stores_trained_only
from vit_adapter.engine.start import load_start, load_trained


def make_vit(**options: object) -> PlainViT:
    return PlainViT(img_size=32, embed_dim=8, depth=1, num_heads=2, **options)


def make_config(output_dir: Path | str = "", **train: object) -> DictConfig:
    defaults = {"output_dir": str(output_dir), "init_checkpoint": "", "allow_mismatch": []}
    return OmegaConf.create({"train": {**defaults, **train}})


class State:
    """Stands in for a trainer."""

    def state_dict(self) -> dict[str, int]:
        return {"iteration": 7}


def write_run(folder: Path, trainer: State | None) -> nn.Module:
    """Write a checkpoint and return its model."""
    folder.mkdir()
    model = nn.Linear(2, 2)
    Checkpointer(model, str(folder), trainer=trainer).save("model_0000007")
    return model


def test_new_run_starts_from_the_named_weights(tmp_path: Path) -> None:
    source, model = write_run(tmp_path / "run", State()), nn.Linear(2, 2)
    weights = str(tmp_path / "run/model_0000007.pth")
    cfg = make_config(tmp_path / "new", init_checkpoint=weights, vit_checkpoint="not read")
    assert load_start(cfg, model, resume=True) is None
    torch.testing.assert_close(model.weight, source.weight)


def test_new_run_without_weights_keeps_its_initial_ones(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    assert load_start(make_config(tmp_path), model, resume=False) is None
    assert torch.equal(model.weight, before)


def test_new_run_starts_from_a_pretrained_trunk(tmp_path: Path) -> None:
    source, model = make_vit(), make_vit()
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    cfg = make_config(tmp_path, vit_checkpoint=str(tmp_path / "vit.pth"))
    assert load_start(cfg, model, resume=False) is None
    torch.testing.assert_close(model.patch_embed.proj.weight, source.patch_embed.proj.weight)


@pytest.mark.parametrize("load", [load_start, load_trained])
def test_a_checkpoint_without_trunk_weights_is_completed(load: object, tmp_path: Path) -> None:
    """They come from the weights of the trunk, which are not read if the checkpoint has its own."""
    trunk, whole, model = make_vit(), *(nn.Sequential(make_vit(), nn.Linear(2, 2)) for _ in "ab")
    torch.save(trunk.state_dict(), tmp_path / "vit.pth")
    head = {name: value for name, value in whole.state_dict().items() if name.startswith("1.")}
    torch.save(head, tmp_path / "head.pth")
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    names = {"vit_checkpoint": str(tmp_path / "vit.pth"), "allow_mismatch": ["^0"]}
    for weights, expected in (("head.pth", trunk), ("whole.pth", whole[0])):
        cfg = make_config(tmp_path / "run", init_checkpoint=str(tmp_path / weights), **names)
        load(cfg, model, resume=False)
        assert torch.equal(model[0].patch_embed.proj.weight, expected.patch_embed.proj.weight)
        assert torch.equal(model[1].weight, whole[1].weight)


def test_a_checkpoint_that_must_fit_is_not_completed(tmp_path: Path) -> None:
    model = nn.Sequential(make_vit(), nn.Linear(2, 2))
    head = {name: value for name, value in model.state_dict().items() if name.startswith("1.")}
    torch.save(head, tmp_path / "head.pth")
    cfg = make_config(
        tmp_path, init_checkpoint=str(tmp_path / "head.pth"), vit_checkpoint="not read"
    )
    with pytest.raises(UsageError, match="does not fit the model"):
        load_start(cfg, model, resume=False)


@pytest.mark.parametrize(
    ("trainer", "expected"), [(State(), {"trainer": {"iteration": 7}}), (None, {})]
)
def test_resumed_run_returns_the_rest_of_the_checkpoint(
    trainer: State | None, expected: dict, tmp_path: Path
) -> None:
    source, model = write_run(tmp_path / "run", trainer), nn.Linear(2, 2)
    cfg = make_config(tmp_path / "run", init_checkpoint="not read", vit_checkpoint="not read")
    assert load_start(cfg, model, resume=True) == expected
    torch.testing.assert_close(model.weight, source.weight)


def test_nothing_to_resume_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_run(tmp_path / "previous_run_1", State())
    assert load_start(make_config(tmp_path), nn.Linear(2, 2), resume=True) is None
    assert "has no checkpoint to continue from. Earlier runs were moved to" in caplog.text


def test_restart_by_a_launcher_does_not_start_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    write_run(tmp_path / "run", State())
    cfg = make_config(tmp_path / "run")
    with pytest.raises(UsageError, match="--resume"):
        load_start(cfg, nn.Linear(2, 2), resume=False)
    assert load_start(cfg, nn.Linear(2, 2), resume=True) is not None


@pytest.mark.parametrize("load", [load_start, load_trained])
def test_weights_that_do_not_fit_are_a_usage_error(load: object, tmp_path: Path) -> None:
    write_run(tmp_path / "run", State())
    for name, message in (("run/model_0000007.pth", "does not fit"), ("x.pth", "does not exist")):
        cfg = make_config(tmp_path, init_checkpoint=str(tmp_path / name))
        with pytest.raises(UsageError, match=message):
            load(cfg, nn.Linear(2, 3), resume=False)


def test_weights_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--eval-only needs weights"):
        load_trained(make_config(tmp_path), nn.Linear(2, 2), resume=True)
    sources = [write_run(tmp_path / name, None) for name in ("a", "b")]
    cfg = make_config(tmp_path / "a", init_checkpoint=str(tmp_path / "b/model_0000007.pth"))
    for resume, source in ((True, sources[0]), (False, sources[1])):
        model = nn.Linear(2, 2)
        load_trained(cfg, model, resume=resume)
        torch.testing.assert_close(model.weight, source.weight)


def test_only_an_evaluation_takes_the_average(tmp_path: Path) -> None:
    source, average = nn.Linear(2, 2), nn.Linear(2, 2)
    Checkpointer(source, str(tmp_path), trainer=State(), average=average).save("model_0000007")
    for use, expected in ((False, source), (True, average)):
        options = {"use_ema_weights_for_eval_only": use}
        cfg = make_config(tmp_path, model_ema={"enabled": True, "decay": 0.9, **options})
        model, resumed = nn.Linear(2, 2), nn.Linear(2, 2)
        load_trained(cfg, model, resume=True)
        assert torch.equal(model.weight, expected.weight)
        rest = load_start(cfg, resumed, resume=True)
        assert torch.equal(resumed.weight, source.weight)
        assert torch.equal(rest["model_ema"]["weight"], average.weight)


TRAINED_ONLY = {"checkpointer": {"trained_only": True}}


def write_vit(folder: Path, **options: object) -> tuple[PlainViT, str]:
    """Write the weights of a ViT; return it and the file."""
    vit = make_vit(**options)
    file = folder / "vit.pth"
    torch.save({n: p for n, p in vit.state_dict().items() if "lora_" not in n}, file)
    return vit, str(file)


def test_a_run_that_stores_the_trained_part_is_resumed(tmp_path: Path) -> None:
    vit, file = write_vit(tmp_path, lora_rank=2)
    (tmp_path / "run").mkdir()
    cfg = make_config(tmp_path / "run", vit_checkpoint=file, **TRAINED_ONLY)
    model = make_vit(lora_rank=2)
    assert load_start(cfg, model, resume=False) is None
    assert torch.equal(model.blocks[0].mlp.fc1.weight, vit.blocks[0].mlp.fc1.weight)
    nn.init.ones_(model.blocks[0].attn.qkv.lora_b)
    Checkpointer(
        model,
        str(tmp_path / "run"),
        trainer=State(),
        base=base_weights(cfg),
        trained_only=stores_trained_only(cfg),
    ).save("model_0000007")
    assert "blocks.0.mlp.fc1.weight" not in load_state_dict_file(tmp_path / "run/model_0000007.pth")
    resumed, evaluated = make_vit(lora_rank=2), make_vit(lora_rank=2)
    assert load_start(cfg, resumed, resume=True) == {"trainer": {"iteration": 7}}
    load_trained(cfg, evaluated, resume=True)
    for loaded in (resumed, evaluated):
        state = loaded.state_dict()
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "vit_checkpoint", "message"),
    [
        ({"lora_rank": 2}, False, "needs train.vit_checkpoint"),
        ({}, True, "has no effect: all blocks of the ViT are trained"),
    ],
)
def test_storing_the_trained_part_needs_fixed_weights_of_a_file(
    options: dict[str, object], vit_checkpoint: bool, message: str, tmp_path: Path
) -> None:
    _, file = write_vit(tmp_path)
    cfg = make_config(tmp_path, vit_checkpoint=file if vit_checkpoint else "", **TRAINED_ONLY)
    with pytest.raises(UsageError, match=message):
        load_start(cfg, make_vit(**options), resume=False)


def test_storing_the_trained_part_of_another_start_is_refused(tmp_path: Path) -> None:
    _, file = write_vit(tmp_path)
    Checkpointer(make_vit(lora_rank=2), str(tmp_path)).save("whole")
    cfg = make_config(
        tmp_path,
        vit_checkpoint=file,
        init_checkpoint=str(tmp_path / "whole.pth"),
        **TRAINED_ONLY,
    )
    with pytest.raises(UsageError, match=r"has others than train\.vit_checkpoint='.*vit\.pth'"):
        load_start(cfg, make_vit(lora_rank=2), resume=False)
    cfg.train.checkpointer.trained_only = False
    load_start(cfg, make_vit(lora_rank=2), resume=False)
