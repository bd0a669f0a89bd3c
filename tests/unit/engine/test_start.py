"""What a run starts from: pre-trained weights, a checkpoint, or an earlier run."""

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.config.errors import UsageError
from vit_adapter.engine.start import load_start, load_trained, load_trunk


def make_vit() -> PlainViT:
    return PlainViT(img_size=32, embed_dim=8, depth=1, num_heads=2)


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


def test_trunk_weights_are_loaded_if_named(tmp_path: Path) -> None:
    source = make_vit()
    nn.init.ones_(source.pos_embed)
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    model = make_vit()
    load_trunk(make_config(vit_checkpoint=""), model)
    assert not torch.equal(model.pos_embed, source.pos_embed)
    load_trunk(make_config(vit_checkpoint=str(tmp_path / "vit.pth")), nn.Sequential(model))
    torch.testing.assert_close(model.pos_embed, source.pos_embed)


def test_the_config_sets_how_patch_kernels_are_resized(tmp_path: Path) -> None:
    model = make_vit()
    weights = model.state_dict()
    kernel = torch.randn(8, 3, 14, 14)
    torch.save({**weights, "patch_embed.proj.weight": kernel}, tmp_path / "vit.pth")
    resized = {}
    for options in ({}, {"vit_patch_resize": "bilinear"}):
        load_trunk(make_config(vit_checkpoint=str(tmp_path / "vit.pth"), **options), model)
        resized[len(options)] = model.patch_embed.proj.weight.detach().clone()
    torch.testing.assert_close(resized[1], nn.functional.interpolate(kernel, 16, mode="bilinear"))
    assert not torch.allclose(resized[0], resized[1])


def test_trunk_weights_without_a_trunk(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one ViT trunk, but this one has 0"):
        load_trunk(make_config(vit_checkpoint=str(tmp_path / "vit.pth")), nn.Linear(1, 1))


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


@pytest.mark.parametrize(("trainer", "expected"), [(State(), {"iteration": 7}), (None, {})])
def test_resumed_run_returns_the_state_of_the_trainer(
    trainer: State | None, expected: dict, tmp_path: Path
) -> None:
    """Without one, the trainer gets an empty state, which it refuses."""
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
