"""The whole hybrid task cascade: every name and shape of the original has a place in a config."""

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

LISTS = Path(__file__).parent / "golden_detection" / "keys"
FINE_TUNED = [
    "model.backbone.norm=GN",
    *(f"model.roi_heads.box_heads.{stage}.conv_norm=SyncBN" for stage in range(3)),
]
DETECTORS = [
    ("augreg_adapter_large", "augreg", [], 400_319_861),
    ("beit_adapter_large", "beit", [], 400_726_261),
    ("beitv2_adapter_large_o365_coco", "beitv2", FINE_TUNED, 400_731_381),
]


@pytest.mark.parametrize(("name", "pretraining", "overrides", "count"), DETECTORS)
def test_names_convert_both_ways(
    name: str, pretraining: str, overrides: list[str], count: int
) -> None:
    entries = json.loads((LISTS / f"htcpp_{name}.json").read_text())["entries"]
    original = {key: torch.empty(e["shape"], device="meta") for key, e in entries.items()}
    cfg = model_zoo.get_config(f"coco/htc_vit_adapter_large_{pretraining}_3x")
    apply_overrides(cfg, overrides)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    conversion = convert(original)
    report = compare_keys(model, conversion.state_dict)
    assert report.is_exact, report.describe()
    assert all(key.endswith("relative_position_index") for key in conversion.dropped)
    back = revert(conversion.state_dict, tree=find_tree(original)).state_dict
    assert list(back) == list(original)
    assert all(back[key].shape == value.shape for key, value in original.items())
