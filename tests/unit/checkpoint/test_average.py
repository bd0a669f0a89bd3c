"""The moving average of the weights in a checkpoint, and which of both are loaded."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.checkpoint import CheckpointFileError, load_state_dict_file
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.checkpoint.trained_part import BaseWeights


class State:
    """Stands in for an average, or for a trainer."""

    def __init__(self, **state: object) -> None:
        self.state_dict = lambda: state


def write(folder: Path, **options: object) -> nn.Module:
    """Write ``a.pth``, with zeros as the average of the bias; return the model."""
    model = nn.Linear(2, 2)
    Checkpointer(model, str(folder), **options).save("a")
    return model


def load(folder: Path, *, average: bool) -> tuple[nn.Module, dict[str, object]]:
    model = nn.Linear(2, 2)
    rest = Checkpointer(model, load_average=average).load(str(folder / "a.pth"))
    return model, rest


def test_weights_or_their_average_are_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the average leaves out is not trained, so it comes from the weights."""
    source = write(tmp_path, trainer=State(iteration=1), average=State(bias=torch.zeros(2)))
    stored = load_checkpoint_file(tmp_path / "a.pth")
    assert list(stored["model_ema"]) == ["bias"]
    assert torch.equal(load_state_dict_file(tmp_path / "a.pth")["bias"], source.bias)
    for average, message in ((False, "Taking the trained weights."), (True, "Taking the moving")):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            model, rest = load(tmp_path, average=average)
        assert message in caplog.text
        assert torch.equal(model.weight, source.weight)
        assert torch.equal(model.bias, torch.zeros(2) if average else source.bias)
        assert set(rest) == {"trainer", "model_ema"}


def test_an_average_with_other_names_does_not_fit(tmp_path: Path) -> None:
    write(tmp_path, average=State(biases=torch.zeros(2)))
    with pytest.raises(ValueError, match="1 only in the checkpoint .unused.:\n  biases"):
        load(tmp_path, average=True)


def test_a_run_without_an_average_is_refused_where_one_is_wanted(tmp_path: Path) -> None:
    write(tmp_path, trainer=State(iteration=1))
    load(tmp_path, average=False)
    with pytest.raises(CheckpointFileError, match="holds no moving average"):
        load(tmp_path, average=True)


def test_a_file_of_weights_has_nothing_to_choose_from(tmp_path: Path) -> None:
    source = write(tmp_path)
    for average in (False, True):
        assert torch.equal(load(tmp_path, average=average)[0].bias, source.bias)


def test_the_average_of_the_trained_part(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = PlainViT(img_size=32, embed_dim=8, depth=1, num_heads=2, lora_rank=2)
    trained = {name: p.detach() + 1 for name, p in vit.named_parameters() if p.requires_grad}
    options = dict(base=BaseWeights("", lambda model: None), trained_only=True)
    Checkpointer(vit, str(tmp_path), average=State(**trained), **options).save("a")
    expected = {**vit.state_dict(), **trained}
    Checkpointer(vit, load_average=True, base=options["base"]).load(str(tmp_path / "a.pth"))
    assert all(torch.equal(value, expected[name]) for name, value in vit.state_dict().items())
