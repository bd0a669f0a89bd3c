"""Whole detectors: every name and shape of the original's state dicts has a place in a config.

The lists of names and shapes in ``keys_detection`` were written by building the detectors from the
original's configs.
"""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from vit_adapter import model_zoo
from vit_adapter.checkpoint.loading import compare_keys
from vit_adapter.checkpoint.original import convert, revert
from vit_adapter.checkpoint.original.provenance import find_tree
from vit_adapter.config.overrides import apply_overrides

FOLDER = Path(__file__).parent / "keys_detection"
# The original's list, our config, and published parameters in millions
DETECTORS = {
    "atss_deit_adapter_small": ("atss_vit_adapter_small_deit_3x", "35.67"),
    "cascade_mask_rcnn_deit_adapter_base": (
        "cascade_mask_rcnn_vit_adapter_base_deit_3x",
        "158.02",
    ),
    "cascade_mask_rcnn_deit_adapter_small": (
        "cascade_mask_rcnn_vit_adapter_small_deit_3x",
        "85.64",
    ),
    "gfl_deit_adapter_small": ("gfl_vit_adapter_small_deit_3x", "35.81"),
    "htcpp_augreg_adapter_large": ("htc_vit_adapter_large_augreg_3x", "400.32"),
    "htcpp_beit_adapter_large": ("htc_vit_adapter_large_beit_3x", "400.73"),
    "htcpp_beitv2_adapter_large_o365_coco": (
        "htc_vit_adapter_large_beitv2_o365",
        "400.73",
    ),
    "mask_rcnn_deit_adapter_small": ("mask_rcnn_vit_adapter_small_deit_3x", "47.80"),
    "upgraded_mask_rcnn_mae_adapter_base_lsj_50ep": (
        "mask_rcnn_vit_adapter_base_mae_lsj_50ep",
        "120.07",
    ),
}
# Plain ViTs, of which there is no list
BASELINES = {
    "cascade_mask_rcnn_vit_small_deit_3x": 82,
    "cascade_mask_rcnn_vit_base_deit_3x": 151,
}


def build(config: str, *overrides: str) -> torch.nn.Module:
    cfg = model_zoo.get_config(f"coco/{config}")
    apply_overrides(cfg, overrides)
    with torch.device("meta"):
        return instantiate(cfg.model)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.json")))
def test_detectors_convert_both_ways(name: str) -> None:
    config, millions = DETECTORS[name]
    listed = json.loads((FOLDER / f"{name}.json").read_text())
    entries = listed["entries"]
    original = {key: torch.empty(e["shape"], device="meta") for key, e in entries.items()}
    model = build(config)
    assert count(model) == listed["total_parameters"]
    assert f"{count(model) / 1e6:.2f}" == millions

    conversion = convert(original)
    report = compare_keys(model, conversion.state_dict)
    assert report.is_exact, report.describe()
    assert all(key.endswith("relative_position_index") for key in conversion.dropped)
    learned = {conversion.names[key] for key, e in entries.items() if e["kind"] == "parameter"}
    assert learned == {key for key, _ in model.named_parameters()}

    back = revert(conversion.state_dict, tree=find_tree(original)).state_dict
    assert list(back) == list(original)
    computed = set(conversion.dropped)
    assert all(back[key] is value for key, value in original.items() if key not in computed)
    assert all(back[key].shape == original[key].shape for key in computed)


@pytest.mark.parametrize(("config", "millions"), BASELINES.items())
def test_parameters_of_the_baselines(config: str, millions: int) -> None:
    assert round(count(build(config)) / 1e6) == millions


def test_parameters_of_the_released_detector_from_mae() -> None:
    """The paper prints 122 M: unlike the config, the released model has two extra extractors."""
    extra = "model.backbone.bottom_up.use_extra_extractor=True"
    model = build("mask_rcnn_vit_adapter_base_mae_lsj_50ep", extra)
    assert f"{count(model) / 1e6:.2f}" == "122.07"


@pytest.mark.parametrize("epochs", [25, 50])
def test_parameters_of_the_plain_vit_from_mae(epochs: int) -> None:
    assert count(build(f"mask_rcnn_vit_base_mae_lsj_{epochs}ep")) == 115_480_816
