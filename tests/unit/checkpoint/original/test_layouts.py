"""The table of layouts: which one fits a checkpoint, and how to add one."""

import pytest
import torch
from torch import Tensor

from vit_adapter.checkpoint.original import convert, revert
from vit_adapter.checkpoint.original.layouts import layout_of_ours, layout_of_theirs, table
from vit_adapter.checkpoint.original.layouts.backbone import backbone_of_detector
from vit_adapter.checkpoint.original.layouts.layout import Layout
from vit_adapter.checkpoint.original.layouts.mask_rcnn import pyramid
from vit_adapter.checkpoint.original.provenance import find_tree
from vit_adapter.checkpoint.original.rules import Renamer, Rule

ONE_STAGE = Layout(
    name="a one-stage detector",
    tree="detection",
    theirs=r"bbox_head\.fused_",
    ours=r"head\.cls_score\.",
    example="bbox_head.fused_cls.weight",
    rules=lambda names: [
        *backbone_of_detector(),
        *pyramid(names),
        Rule("bbox_head.fused_cls.{leaf}", "head.cls_score.{leaf}"),
    ],
)


def tensors(*names: str) -> dict[str, Tensor]:
    return {name: torch.randn(2) for name in names}


@pytest.mark.parametrize(
    ("name", "layout", "tree"),
    [
        ("neck.fpn_convs.0.conv.bias", "Mask R-CNN with FPN", "detection"),
        ("roi_head.bbox_head.2.fc_cls.bias", "Mask R-CNN with FPN", "detection"),  # the nearest
        ("bbox_head.atss_cls.bias", "ATSS", "detection"),
        ("bbox_head.gfl_cls.bias", "GFL", "detection"),
        ("rpn_head.init_proposal_features.weight", "Sparse R-CNN", "detection"),
        ("decode_head.cls_embed.bias", "Mask2Former", "segmentation"),
        ("panoptic_head.cls_embed.bias", "Mask2Former of the panoptic detector", "detection"),
        ("decode_head.conv_seg.bias", "UPerNet", "segmentation"),
        ("auxiliary_head.conv_seg.bias", "UPerNet", "segmentation"),
        ("backbone.pos_embed", "a detector's backbone with 'backbone.' before every key", None),
        ("pos_embed", "a backbone alone", None),
    ],
)
def test_heads_tell_the_layout(name: str, layout: str, tree: str | None) -> None:
    names = ["pos_embed" if name == "pos_embed" else "backbone.pos_embed", name]
    assert layout_of_theirs(names).name == layout
    assert find_tree(names) == tree


@pytest.mark.parametrize("layout", table._LAYOUTS, ids=lambda layout: layout.name)
def test_each_layout_recognises_its_example(layout: Layout) -> None:
    names = [layout.example] if layout is table.BACKBONE else ["backbone.pos_embed", layout.example]
    assert layout_of_theirs(names) is layout
    if layout.tree:
        renamed = map(Renamer(layout.rules(names)).to_ours, names)
        assert layout_of_ours(filter(None, renamed), layout.tree) is layout


def test_no_names_count_as_a_backbone() -> None:
    assert layout_of_theirs([]) is layout_of_ours([]) is table.BACKBONE


def test_the_tree_decides_only_between_equal_names() -> None:
    head = ["head.pixel_decoder.mask_feature.bias"]
    trees = [layout_of_ours(head, tree).tree for tree in (None, "segmentation", "detection")]
    assert trees == ["segmentation", "segmentation", "detection"]
    assert layout_of_ours(["roi_heads.box_head.fc1.bias"], "segmentation").tree == "detection"


def test_a_new_layout_needs_one_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tensors(
        "backbone.pos_embed", "neck.lateral_convs.0.conv.bias", "bbox_head.fused_cls.bias"
    )
    with pytest.raises(ValueError, match="not supported by this project: another one-stage head"):
        convert(original)
    monkeypatch.setattr(table, "_LAYOUTS", (ONE_STAGE, *table._LAYOUTS))
    conversion = convert(original)
    assert list(conversion.state_dict) == [
        "backbone.bottom_up.vit.pos_embed",
        "backbone.fpn_lateral5.bias",
        "head.cls_score.bias",
    ]
    assert revert(conversion.state_dict).state_dict == original
    assert find_tree(original) == "detection"


def test_messages_list_the_layouts() -> None:
    with pytest.raises(ValueError, match="models known here are: .*Mask R-CNN.*UPerNet"):
        convert(tensors("head.weight"))
    with pytest.raises(ValueError, match="backbones of build_backbone in: .*Mask R-CNN.*UPerNet"):
        revert(tensors("head.weight"))
