"""Whole detectors: every name and shape of the original's state dicts has a place in a config."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from vit_adapter import model_zoo
from vit_adapter.checkpoint.loading import compare_keys
from vit_adapter.checkpoint.original import convert, revert
from vit_adapter.checkpoint.original.provenance import find_tree

LISTS = Path(__file__).parent / "golden_detection" / "keys"
# The original's list of names and shapes, our config, parameters that the paper prints, in millions
DETECTORS = [
    (
        "cascade_mask_rcnn_deit_adapter_small",
        "coco/cascade_mask_rcnn_vit_adapter_small_deit_3x",
        "85.64",
    ),
    (
        "cascade_mask_rcnn_deit_adapter_base",
        "coco/cascade_mask_rcnn_vit_adapter_base_deit_3x",
        "158.02",
    ),
]
# Plain ViTs, of which there is no list
BASELINES = [
    ("coco/cascade_mask_rcnn_vit_small_deit_3x", 82),
    ("coco/cascade_mask_rcnn_vit_base_deit_3x", 151),
]


def build(config: str) -> torch.nn.Module:
    with torch.device("meta"):
        return instantiate(model_zoo.get_config(config).model)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "config", "millions"), DETECTORS)
def test_detectors_convert_both_ways(name: str, config: str, millions: str) -> None:
    listed = json.loads((LISTS / f"{name}.json").read_text())
    original = {
        key: torch.empty(entry["shape"], device="meta") for key, entry in listed["entries"].items()
    }
    model = build(config)
    assert count(model) == listed["total_parameters"]
    assert f"{count(model) / 1e6:.2f}" == millions

    converted = convert(original)
    report = compare_keys(model, converted.state_dict)
    assert report.is_exact, report.describe()
    assert not converted.dropped
    back = revert(converted.state_dict, tree=find_tree(original)).state_dict
    assert list(back) == list(original)
    assert all(back[key] is value for key, value in original.items())


@pytest.mark.parametrize(("config", "millions"), BASELINES)
def test_parameters_of_the_baselines(config: str, millions: int) -> None:
    assert round(count(build(config)) / 1e6) == millions
