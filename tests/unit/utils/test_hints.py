"""Hints in error messages."""

from vit_adapter.utils.hints import did_you_mean


def test_suggests_similar_names() -> None:
    known = ["shapes_train", "shapes_val", "coco_2017_train"]
    assert did_you_mean("shape_train", iter(known), cutoff=0.8) == " Did you mean shapes_train?"
    hint = did_you_mean("shape_train", known, cutoff=0.8, also=["shapes_train", "x"])
    assert hint == " Did you mean shapes_train, x?"


def test_uses_the_other_sentence_if_nothing_is_similar() -> None:
    assert did_you_mean("xyz", ["shapes"]) == ""
    assert did_you_mean("xyz", ["shapes"], otherwise="There is shapes.") == " There is shapes."
