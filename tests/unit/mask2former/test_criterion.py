"""Losses: empty images, autocast, several processes, bad input. Oracle tests check values."""

import pytest
import torch

from vit_adapter.mask2former import (
    HungarianMatcher,
    MaskPredictions,
    MaskTargets,
    SetCriterion,
)


def make(**changes: object) -> SetCriterion:
    settings = {"num_classes": 3, "matcher": HungarianMatcher(num_points=50), "num_points": 50}
    return SetCriterion(**{**settings, **changes})


def predictions() -> MaskPredictions:
    return MaskPredictions(
        torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 8, 8, requires_grad=True)
    )


def targets(*counts: int) -> list[MaskTargets]:
    return [
        MaskTargets(torch.randint(3, (count,)), torch.rand(count, 32, 32) > 0.5) for count in counts
    ]


def test_images_without_regions_train_only_the_classes() -> None:
    prediction = predictions()
    losses = make()([prediction], targets(0, 0))
    expected = -2 * prediction.class_logits.log_softmax(-1)[..., -1].mean()
    torch.testing.assert_close(losses["loss_cls"], expected)
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    sum(losses.values()).backward()
    assert prediction.class_logits.grad.any()
    # There must be gradients, even if zero: other processes wait for them.
    assert not prediction.mask_logits.grad.any()


def test_perfect_predictions_cost_nothing() -> None:
    target = MaskTargets(torch.tensor([0, 2]), torch.zeros(2, 32, 32, dtype=torch.bool))
    target.masks[0, :16] = target.masks[1, 16:] = True
    masks = torch.full((1, 5, 32, 32), -40.0)
    masks[0, :2] = target.masks * 80.0 - 40
    classes = torch.zeros(1, 5, 4)
    classes[0, [0, 1, 2, 3, 4], [0, 2, 3, 3, 3]] = 40
    losses = make(importance_sample_ratio=0.0)([MaskPredictions(classes, masks)], [target])
    assert losses["loss_cls"] < 1e-6
    assert losses["loss_dice"] < 0.3  # except for points at the border
    assert losses["loss_mask"] < 5.0 * 40 / 32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_in_float32_under_autocast(dtype: torch.dtype) -> None:
    prediction = MaskPredictions(*(logits.detach().to(dtype) for logits in predictions()))
    wide = MaskPredictions(*(logits.float() for logits in prediction))
    given = targets(2, 1)
    torch.manual_seed(0)
    expected = make()([wide], given)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype):
        actual = make()([prediction], given)
    assert all(loss.dtype == torch.float32 for loss in actual.values())
    torch.testing.assert_close(actual, expected)


def test_weights_scale_the_losses() -> None:
    prediction, given = predictions(), targets(2, 3)
    matcher = HungarianMatcher(num_points=50)
    results = []
    for weights in ({}, {"class_weight": 4.0, "mask_weight": 1.0, "dice_weight": 0.0}):
        torch.manual_seed(0)
        results.append(make(matcher=matcher, **weights)([prediction], given))
    torch.testing.assert_close(results[1]["loss_cls"], 2 * results[0]["loss_cls"])
    torch.testing.assert_close(results[1]["loss_mask"], results[0]["loss_mask"] / 5)
    assert results[1]["loss_dice"] == 0


def test_pairs_are_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, given = predictions(), targets(1, 0)
    torch.manual_seed(0)
    alone = make()([prediction], given)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.add_(4))
    torch.manual_seed(0)
    together = make()([prediction], given)  # 1 pair here, 4 there: 2.5 on average
    torch.testing.assert_close(together["loss_cls"], alone["loss_cls"])
    for name in ("loss_mask", "loss_dice"):
        torch.testing.assert_close(together[name], alone[name] / 2.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "at least 1, got 0, 50"),
        ({"num_points": 0}, "at least 1, got 3, 0"),
        ({"oversample_ratio": 0.5}, r"in \[0, 1\], got 0.5 and 0.75"),
        ({"importance_sample_ratio": 1.5}, r"in \[0, 1\], got 3.0 and 1.5"),
        ({"mask_weight": -1.0}, "weights must not be negative"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"B = 2 and K \+ 1 = 5, got \(2, 5, 4\)"):
        make(num_classes=4)([predictions()], targets(1, 1))
    with pytest.raises(ValueError, match="B = 1"):
        make()([predictions()], targets(1))
