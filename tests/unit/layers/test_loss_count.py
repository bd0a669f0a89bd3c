"""Divisors of losses: as published, and over all images of a step."""

import pytest
import torch
from torch import Tensor

from vit_adapter.layers.loss_count import StepCounts, loss_divisor, rescale_means


@pytest.fixture
def other_process(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Pretend that there is a second process, and return what it adds to every count."""
    added = torch.tensor([2.0, 5.8])
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda count: count.add_(added))
    return added


def test_one_process() -> None:
    counts = torch.tensor([7.0, 0.2], requires_grad=True)
    for over_processes in (False, True):
        divisors = loss_divisor(counts, over_processes=over_processes)
        assert divisors.tolist() == [7.0, 1.0]
        assert not divisors.requires_grad
    assert loss_divisor(counts, minimum=0).tolist() == pytest.approx([7.0, 0.2])


@pytest.mark.usefixtures("other_process")
def test_as_published_in_two_processes() -> None:
    counts = torch.tensor([7.0, 0.2])
    assert loss_divisor(counts).tolist() == [7.0, 1.0]
    assert loss_divisor(counts, over_processes=True).tolist() == pytest.approx([4.5, 3.0])
    assert counts.tolist() == pytest.approx([7.0, 0.2])
    losses = {"loss": torch.tensor(3.0)}
    assert rescale_means(losses, 4) == losses


@pytest.mark.usefixtures("other_process")
def test_one_micro_batch_counts_in_the_forward_pass() -> None:
    counts = torch.tensor([7.0, 0.2])
    with StepCounts().apply():
        assert loss_divisor(counts).tolist() == pytest.approx([4.5, 3.0])
    assert loss_divisor(counts).tolist() == [7.0, 1.0]


def collected(*micro_batches: list[Tensor]) -> StepCounts:
    step = StepCounts(len(micro_batches))
    for counts in micro_batches:
        with step.collect():
            for count in counts:
                loss_divisor(count)
    step.share()
    return step


@pytest.mark.usefixtures("other_process")
def test_several_micro_batches() -> None:
    """Every call gets its own total, over two micro-batches in each of two processes."""
    zeros = torch.zeros(2)
    first, second = [zeros + 1, zeros + 10], [zeros + 2, zeros + 20]
    step = collected(first, second)
    for _ in range(2):
        with step.apply():
            assert loss_divisor(zeros).tolist() == pytest.approx([5 / 4, 8.8 / 4])
            assert loss_divisor(zeros).tolist() == pytest.approx([32 / 4, 35.8 / 4])
    assert first[0].tolist() == [1.0, 1.0]


def test_the_total_is_at_least_the_minimum() -> None:
    """Not the count of each micro-batch, so that the result does not depend on their number."""
    step = collected([torch.tensor(0)], [torch.tensor(0)])
    with step.apply():
        assert loss_divisor(torch.tensor(0)) == 0.5
    step = collected([torch.tensor(0)], [torch.tensor(3)])
    with step.apply():
        assert loss_divisor(torch.tensor(0)) == 1.5


def test_means_are_rescaled() -> None:
    """The mean over 1 and 3 items, from the means of both micro-batches."""
    items = [torch.tensor([8.0]), torch.tensor([1.0, 2.0, 3.0])]
    step = collected(*([torch.tensor(float(len(part)))] for part in items))
    losses = []
    for part in items:
        with step.apply():
            losses.append(rescale_means({"loss": part.mean()}, len(part))["loss"])
    assert sum(losses) / 2 == torch.cat(items).mean()


def test_no_items() -> None:
    step = collected([torch.tensor(0.0)], [torch.tensor(0.0)])
    with step.apply():
        assert rescale_means({"loss": torch.tensor(0.0)}, 0) == {"loss": 0.0}


def test_micro_batches_with_different_calls() -> None:
    with pytest.raises(RuntimeError, match="asked for 1 loss divisors, but for 2"):
        collected([torch.ones(1), torch.ones(1)], [torch.ones(1)])


def test_failed_forward_pass_leaves_published_divisors() -> None:
    step = StepCounts(1)
    with pytest.raises(KeyError), step.apply():
        raise KeyError
    assert rescale_means({"loss": torch.ones(())}, 0) == {"loss": 1.0}
