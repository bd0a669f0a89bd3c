"""Strict loading: every name is reported, and nothing changes if loading is refused."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from vit_adapter.checkpoint.loading import (
    CheckpointMismatchError,
    ResizedEntry,
    compare_keys,
    load_strict,
    without_prefix,
)


def make_model(classes: int = 3) -> nn.Module:
    model = nn.Sequential()
    model.add_module("body", nn.Linear(4, 5))
    model.add_module("norm", nn.BatchNorm1d(5))
    model.add_module("predictor", nn.Linear(5, classes))
    return model


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(model: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_exact_match_loads_everything() -> None:
    source, target = make_model(), make_model()
    report = load_strict(target, source.state_dict())
    assert report.is_exact
    assert report.describe() == ""
    assert set(report.loaded) == set(source.state_dict())
    assert_same(target, source.state_dict())


def test_refusal_lists_all_three_kinds_and_loads_nothing() -> None:
    model = make_model()
    before = snapshot(model)
    state_dict = make_model(classes=7).state_dict()
    state_dict["extra.weight"] = torch.zeros(1)
    del state_dict["body.weight"], state_dict["norm.running_mean"]
    with pytest.raises(CheckpointMismatchError) as caught:
        load_strict(model, state_dict, source="checkpoint 'x.pth'")
    report = caught.value.report
    assert report.unused == ("extra.weight",)
    assert report.missing == ("body.weight", "norm.running_mean")
    assert report.misshapen == (
        ("predictor.weight", (7, 5), (3, 5)),
        ("predictor.bias", (7,), (3,)),
    )
    message = str(caught.value)
    assert "checkpoint 'x.pth' does not fit the model: 5 names do not match" in message
    assert "predictor.weight: (7, 5) in the checkpoint, (3, 5) in the model" in message
    for name in ("extra.weight", "body.weight", "norm.running_mean", "predictor.bias"):
        assert f"\n  {name}" in message
    assert "train.allow_mismatch" in message
    assert_same(model, before)


def test_allowed_names_keep_the_models_values(caplog: pytest.LogCaptureFixture) -> None:
    model, source = make_model(), make_model(classes=7)
    before = snapshot(model)
    with caplog.at_level(logging.WARNING):
        report = load_strict(model, source.state_dict(), allow=[r"^predictor\."])
    torch.testing.assert_close(model.body.weight, source.body.weight)
    torch.testing.assert_close(model.predictor.weight, before["predictor.weight"])
    assert [entry[0] for entry in report.misshapen] == ["predictor.weight", "predictor.bias"]
    assert "predictor.weight" in caplog.text


def test_a_pattern_covers_only_the_names_it_matches() -> None:
    state_dict = make_model(classes=7).state_dict()
    del state_dict["body.bias"]
    with pytest.raises(CheckpointMismatchError) as caught:
        load_strict(make_model(), state_dict, allow=["predictor"])
    assert caught.value.report.missing == ("body.bias",)
    assert caught.value.report.misshapen == ()


def test_a_single_pattern_is_not_split_into_letters() -> None:
    state_dict = make_model(classes=7).state_dict()
    load_strict(make_model(), state_dict, allow="predictor")
    with pytest.raises(CheckpointMismatchError):
        load_strict(make_model(), state_dict, allow="body")


def test_invalid_pattern() -> None:
    state_dict = make_model(classes=7).state_dict()
    with pytest.raises(ValueError, match=r"'\(' is not a regular expression"):
        load_strict(make_model(), state_dict, allow=["("])


def test_a_missing_batch_counter_is_not_a_mismatch() -> None:
    state_dict = make_model().state_dict()
    del state_dict["norm.num_batches_tracked"]
    assert compare_keys(make_model(), state_dict).is_exact
    load_strict(make_model(), state_dict)


def test_another_precision_is_converted() -> None:
    source, target = make_model(), make_model()
    half = {name: value.half() for name, value in source.state_dict().items()}
    load_strict(target, half)
    assert target.body.weight.dtype == torch.float32
    torch.testing.assert_close(target.body.weight, source.body.weight.half().float())


def test_resized_tensors_are_described_and_are_not_mismatches() -> None:
    report = compare_keys(make_model(), make_model().state_dict())
    resized = replace(report, resized=(ResizedEntry("body.weight", (4, 5), (8, 5)),))
    assert resized.is_exact
    assert resized.without("nothing").resized == resized.resized
    assert resized.describe() == (
        "1 resized to the model's shape:\n  body.weight: (4, 5) -> (8, 5)"
    )


@pytest.mark.parametrize("prefix", ["model.", "module.module.", "_forward_module.net."])
def test_prefix_of_all_names_is_dropped(prefix: str) -> None:
    source, target = make_model(), make_model()
    wrapped = {prefix + name: value for name, value in source.state_dict().items()}
    wrapped["n_averaged"] = torch.zeros(1)
    report = load_strict(target, without_prefix(target, wrapped), ["n_averaged"])
    assert report.unused == ("n_averaged",)
    assert_same(target, source.state_dict())


@pytest.mark.parametrize("kept", ["two prefixes", "a name without it", "a missing name"])
def test_an_ambiguous_prefix_stays(kept: str) -> None:
    model = make_model()
    state_dict = {f"student.{name}": value for name, value in model.state_dict().items()}
    if kept == "two prefixes":
        state_dict.update({f"teacher.{name}": v for name, v in model.state_dict().items()})
    elif kept == "a name without it":
        state_dict["predictor.bias"] = torch.zeros(3)
    else:
        del state_dict["student.predictor.bias"]
    assert without_prefix(model, state_dict) is state_dict


def test_empty_model_has_no_prefix() -> None:
    assert without_prefix(nn.Identity(), {"a.weight": torch.zeros(1)}).keys() == {"a.weight"}
