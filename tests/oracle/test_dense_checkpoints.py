"""The original's full lists of ATSS and GFL (names and shapes) against our configs.

The lists were written by building the detectors from the original's configs.
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

FOLDER = Path(__file__).parent / "keys_detection"


@pytest.mark.parametrize("kind", ["atss", "gfl"])
def test_every_name_has_a_place_and_finds_its_way_back(kind: str) -> None:
    described = json.loads((FOLDER / f"{kind}_deit_adapter_small.json").read_text())
    with torch.device("meta"):
        model = instantiate(model_zoo.get_config(f"coco/{kind}_vit_adapter_small_deit_3x").model)
        original = {name: torch.empty(e["shape"]) for name, e in described["entries"].items()}
    assert sum(p.numel() for p in model.parameters()) == described["total_parameters"]
    assert find_tree(original) == "detection"
    conversion = convert(original)
    assert not conversion.dropped
    report = compare_keys(model, conversion.state_dict)
    assert report.is_exact, report.describe()
    assert revert(conversion.state_dict).state_dict == original
    kinds = {conversion.names[name]: e["kind"] for name, e in described["entries"].items()}
    parameters = {name for name, _ in model.named_parameters()}
    assert parameters == {name for name, kind in kinds.items() if kind == "parameter"}
