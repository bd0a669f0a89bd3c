"""Checkpoints of a run: what is written, what is resumed, what is refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from vit_adapter.checkpoint import files
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.files import CheckpointFileError, load_checkpoint_file
from vit_adapter.checkpoint.loading import CheckpointMismatchError


class State:
    """Stands in for a trainer."""

    def __init__(self, iteration: int = 0) -> None:
        self.iteration = iteration

    def state_dict(self) -> dict[str, int]:
        return {"iteration": self.iteration}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.iteration = state_dict["iteration"]


def test_save_and_resume(tmp_path: Path) -> None:
    model, state = nn.Linear(2, 2), State(7)
    checkpointer = Checkpointer(model, str(tmp_path), trainer=state)
    checkpointer.save("model_0000007", iteration=7)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000007.pth",
    ]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"

    other, other_state = nn.Linear(2, 2), State()
    rest = Checkpointer(other, str(tmp_path), trainer=other_state).resume_or_load("", resume=True)
    torch.testing.assert_close(other.weight, model.weight)
    assert other_state.iteration == 7
    assert rest == {"iteration": 7}


def test_weights_without_resuming_leave_the_trainer_alone(tmp_path: Path) -> None:
    Checkpointer(nn.Linear(2, 2), str(tmp_path), trainer=State(7)).save("a")
    state = State(1)
    checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path / "new"), trainer=state)
    checkpointer.resume_or_load(str(tmp_path / "a.pth"), resume=True)
    assert state.iteration == 1


def test_process_killed_while_writing_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(2, 2)
    checkpointer = Checkpointer(model, str(tmp_path), trainer=State(1))
    checkpointer.save("model_0000001")

    def stop(obj: object, stream: object) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(files.torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_0000002")
    monkeypatch.undo()
    assert not (tmp_path / "model_0000002.pth").exists()
    state = State()
    Checkpointer(nn.Linear(2, 2), str(tmp_path), trainer=state).resume_or_load("")
    assert state.iteration == 1


def test_last_checkpoint_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(FileNotFoundError, match=r"last_checkpoint names .*model_0000009\.pth"):
        Checkpointer(nn.Linear(1, 1), str(tmp_path)).resume_or_load("")


def test_weights_alone_cannot_be_resumed(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    Checkpointer(nn.Linear(2, 2), str(tmp_path)).save("a")
    before = model.weight.clone()
    with pytest.raises(CheckpointFileError, match="holds no trainer.*train.init_checkpoint"):
        Checkpointer(model, str(tmp_path), trainer=State()).resume_or_load("")
    torch.testing.assert_close(model.weight, before, rtol=0, atol=0)


def test_mismatch_is_allowed_for_initial_weights_but_not_when_resuming(tmp_path: Path) -> None:
    Checkpointer(nn.Linear(2, 3), str(tmp_path), trainer=State(4)).save("a")
    model, state = nn.Linear(2, 2), State()
    checkpointer = Checkpointer(model, str(tmp_path), trainer=state, allow_mismatch=["weight|bias"])
    checkpointer.resume_or_load(str(tmp_path / "a.pth"), resume=False)
    before = model.weight.clone()
    with pytest.raises(CheckpointMismatchError):
        checkpointer.resume_or_load("", resume=True)
    assert state.iteration == 0
    torch.testing.assert_close(model.weight, before, rtol=0, atol=0)


def test_message_for_a_resumption_does_not_advise_what_has_no_effect(tmp_path: Path) -> None:
    Checkpointer(nn.Linear(2, 3), str(tmp_path), trainer=State(4)).save("a")
    checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path), trainer=State())
    with pytest.raises(CheckpointMismatchError, match="start without --resume .*train.init_check"):
        checkpointer.resume_or_load("", resume=True)
    with pytest.raises(CheckpointMismatchError, match="e.g. train.allow_mismatch=") as caught:
        checkpointer.resume_or_load(str(tmp_path / "a.pth"), resume=False)
    assert "--resume" not in str(caught.value)


def test_trainer_that_refuses_leaves_the_model_alone(tmp_path: Path) -> None:
    class Refusing(State):
        def load_state_dict(self, state_dict: dict[str, int]) -> None:
            raise ValueError("another optimizer")

    Checkpointer(nn.Linear(2, 2), str(tmp_path), trainer=State(4)).save("a")
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    with pytest.raises(ValueError, match="another optimizer"):
        Checkpointer(model, str(tmp_path), trainer=Refusing()).resume_or_load("")
    torch.testing.assert_close(model.weight, before, rtol=0, atol=0)


def test_a_checkpoint_of_the_original_is_pointed_to_the_converter(tmp_path: Path) -> None:
    torch.save({"state_dict": {"rpn_head.rpn_cls.bias": torch.zeros(3)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointMismatchError, match="convert it first, by tools/convert_check"):
        Checkpointer(nn.Linear(2, 2)).load(str(tmp_path / "a.pth"))
    torch.save({"state_dict": {"rpn.bias": torch.zeros(3)}}, tmp_path / "b.pth")
    with pytest.raises(CheckpointMismatchError, match="b.pth' does not fit the model"):
        Checkpointer(nn.Linear(2, 2)).load(str(tmp_path / "b.pth"))


def test_saves_nothing_without_a_folder() -> None:
    Checkpointer(nn.Linear(1, 1)).save("a")


def test_a_checkpoint_reads_back_as_plain_data(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    Checkpointer(model, str(tmp_path), trainer=optimizer).save("a", iteration=3)
    loaded = load_checkpoint_file(tmp_path / "a.pth")
    assert set(loaded) == {"model", "trainer", "iteration"}


def test_checkpoint_with_a_prefix_before_all_names(tmp_path: Path) -> None:
    weights = nn.Linear(2, 2).state_dict()
    torch.save({"state_dict": {f"model.{k}": v for k, v in weights.items()}}, tmp_path / "a.pth")
    model = nn.Linear(2, 2)
    Checkpointer(model).load(str(tmp_path / "a.pth"))
    torch.testing.assert_close(model.weight, weights["weight"], rtol=0, atol=0)
