"""Checkpoints of a run: what is written, what is resumed, what is refused."""

from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from torch import nn

from vit_adapter.checkpoint import files
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.files import CheckpointFileError, load_checkpoint_file
from vit_adapter.checkpoint.loading import CheckpointMismatchError


class State:
    """Stands in for a trainer."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def state_dict(self) -> dict[str, int]:
        return {"iteration": self.iteration}


def test_save_and_resume(tmp_path: Path) -> None:
    model, state = nn.Linear(2, 2), State(7)
    checkpointer = Checkpointer(model, str(tmp_path), trainer=state)
    checkpointer.save("model_0000007", iteration=7)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000007.pth",
    ]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"

    other = nn.Linear(2, 2)
    rest = Checkpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    torch.testing.assert_close(other.weight, model.weight)
    assert rest == {"trainer": {"iteration": 7}, "iteration": 7}


def test_resuming_continues_from_the_last_checkpoint_only(tmp_path: Path) -> None:
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path), trainer=State(7))
    checkpointer.save("model_0000007")
    checkpointer.save("model_best", as_last=False, iteration=7)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"
    assert load_checkpoint_file(tmp_path / "model_best.pth")["trainer"] == {"iteration": 7}


def test_every_process_gathers_and_the_main_one_writes(tmp_path: Path) -> None:
    gathered = []

    def gather(checkpoint: dict[str, object]) -> dict[str, object]:
        gathered.append(list(checkpoint["model"]))
        return {"model": {"whole": torch.ones(1)}}

    model = nn.Linear(1, 1)
    checkpointer = Checkpointer(model, str(tmp_path), gather=gather)
    checkpointer.save_to_disk = False  # as Detectron2 sets it in the other processes
    checkpointer.save("a")
    assert gathered == [["weight", "bias"]]
    assert not list(tmp_path.iterdir())
    checkpointer.save_to_disk = True
    checkpointer.save("a")
    assert list(load_checkpoint_file(tmp_path / "a.pth")["model"]) == ["whole"]


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
    rest = Checkpointer(nn.Linear(2, 2), str(tmp_path)).resume_or_load("")
    assert rest["trainer"] == {"iteration": 1}


def test_a_missing_last_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(CheckpointFileError, match=r"last_checkpoint names .*model_0000009\.pth"):
        Checkpointer(nn.Linear(1, 1), str(tmp_path)).resume_or_load("")


def test_a_truncated_last_checkpoint_is_replaced_by_the_one_before(tmp_path: Path) -> None:
    for number in (1, 3):
        Checkpointer(nn.Linear(1, 1), str(tmp_path), trainer=State(number)).save(f"model_{number}")
    (tmp_path / "model_3.pth").write_bytes((tmp_path / "model_3.pth").read_bytes()[:-1])
    rest = Checkpointer(nn.Linear(1, 1), str(tmp_path)).resume_or_load("")
    assert rest["trainer"] == {"iteration": 1}


def test_all_processes_follow_the_main_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Checkpointer(nn.Linear(1, 1), str(tmp_path), trainer=State(1)).save("model_1")
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    answers = {"chosen": (str(tmp_path / "model_1.pth"), ""), "error": ("", "all are damaged")}
    for case, answer in answers.items():
        monkeypatch.setattr(
            comm, "all_gather", lambda own, answer=answer: [answer if own == ("", "") else own]
        )
        checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
        if case == "chosen":
            assert checkpointer.resume_or_load("")["trainer"] == {"iteration": 1}
        else:
            with pytest.raises(CheckpointFileError, match="all are damaged"):
                checkpointer.resume_or_load("")


def test_a_folder_that_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Checkpointer(nn.Linear(1, 1), str(tmp_path), trainer=State(1)).save("model_1")
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, False])
    with pytest.raises(FileNotFoundError, match=r"processes \[1\] cannot find it"):
        Checkpointer(nn.Linear(1, 1), str(tmp_path)).resume_or_load("")


def test_mismatch_is_allowed_for_initial_weights_but_not_when_resuming(tmp_path: Path) -> None:
    Checkpointer(nn.Linear(2, 3), str(tmp_path), trainer=State(4)).save("a")
    model = nn.Linear(2, 2)
    checkpointer = Checkpointer(model, str(tmp_path), allow_mismatch=["weight|bias"])
    checkpointer.resume_or_load(str(tmp_path / "a.pth"), resume=False)
    before = model.weight.clone()
    with pytest.raises(CheckpointMismatchError):
        checkpointer.resume_or_load("", resume=True)
    torch.testing.assert_close(model.weight, before, rtol=0, atol=0)


def test_the_message_when_resuming_gives_advice_that_has_an_effect(tmp_path: Path) -> None:
    Checkpointer(nn.Linear(2, 3), str(tmp_path), trainer=State(4)).save("a")
    checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path))
    with pytest.raises(CheckpointMismatchError, match="start without --resume .*train.init_check"):
        checkpointer.resume_or_load("", resume=True)
    with pytest.raises(CheckpointMismatchError, match="e.g. train.allow_mismatch=") as caught:
        checkpointer.resume_or_load(str(tmp_path / "a.pth"), resume=False)
    assert "--resume" not in str(caught.value)


def test_the_message_for_a_checkpoint_of_the_original_names_the_converter(tmp_path: Path) -> None:
    torch.save({"state_dict": {"rpn_head.rpn_cls.bias": torch.zeros(3)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointMismatchError, match="convert it with tools/convert_check"):
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
