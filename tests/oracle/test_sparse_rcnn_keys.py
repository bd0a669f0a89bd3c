"""Every name and shape of the original's Sparse R-CNN has a place in the config."""

import json
from pathlib import Path

import torch
from detectron2.config import instantiate

from vit_adapter import model_zoo
from vit_adapter.checkpoint.loading import compare_keys
from vit_adapter.checkpoint.original import convert, revert
from vit_adapter.checkpoint.original.provenance import find_tree

BACKBONE = Path(__file__).parent / "keys_detection" / "atss_deit_adapter_small.json"


def linear(name: str, out: int, channels: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, channels)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def branch(name: str, layers: int) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for layer in range(layers):
        shapes |= linear(f"{name}.{3 * layer}", 256, 256, bias=False)
        shapes |= norm(f"{name}.{3 * layer + 1}", 256)
    return shapes


def stage(name: str) -> dict[str, tuple[int, ...]]:
    dynamic = f"{name}.instance_interactive_conv"
    return {
        f"{name}.attention.attn.in_proj_weight": (768, 256),
        f"{name}.attention.attn.in_proj_bias": (768,),
        **linear(f"{name}.attention.attn.out_proj", 256, 256),
        **norm(f"{name}.attention_norm", 256),
        **linear(f"{dynamic}.dynamic_layer", 32768, 256),
        **norm(f"{dynamic}.norm_in", 64),
        **norm(f"{dynamic}.norm_out", 256),
        **linear(f"{dynamic}.fc_layer", 256, 12544),
        **norm(f"{dynamic}.fc_norm", 256),
        **norm(f"{dynamic}_norm", 256),
        **linear(f"{name}.ffn.layers.0.0", 2048, 256),
        **linear(f"{name}.ffn.layers.1", 256, 2048),
        **norm(f"{name}.ffn_norm", 256),
        **branch(f"{name}.cls_fcs", 1),
        **branch(f"{name}.reg_fcs", 3),
        **linear(f"{name}.fc_cls", 80, 256),
        **linear(f"{name}.fc_reg", 4, 256),
    }


def original_shapes() -> dict[str, tuple[int, ...]]:
    entries = json.loads(BACKBONE.read_text())["entries"]
    shapes = {n: tuple(e["shape"]) for n, e in entries.items() if n.startswith("backbone.")}
    for level in range(4):
        for part, size in (("lateral_convs", (384, 1, 1)), ("fpn_convs", (256, 3, 3))):
            shapes[f"neck.{part}.{level}.conv.weight"] = (256, *size)
            shapes[f"neck.{part}.{level}.conv.bias"] = (256,)
    shapes["rpn_head.init_proposal_bboxes.weight"] = (300, 4)
    shapes["rpn_head.init_proposal_features.weight"] = (300, 256)
    for index in range(6):
        shapes |= stage(f"roi_head.bbox_head.{index}")
    return shapes


def test_every_name_has_a_place_and_finds_its_way_back() -> None:
    config = model_zoo.get_config("coco/sparse_rcnn_vit_adapter_small_deit_3x")
    with torch.device("meta"):
        model = instantiate(config.model)
        original = {name: torch.empty(shape) for name, shape in original_shapes().items()}
    assert find_tree(original) == "detection"
    conversion = convert(original)
    assert not conversion.dropped
    report = compare_keys(model, conversion.state_dict)
    assert report.is_exact, report.describe()
    assert revert(conversion.state_dict).state_dict == original
