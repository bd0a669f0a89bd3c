"""Renaming with pairs of templates."""

import pytest

from vit_adapter.checkpoint.original.rules import Renamer, Rule

SHIFTED = Rule("neck.{i}.conv.{leaf}", "pyramid{i+2}.{leaf}")
NESTED = Rule("a.{i}.b.{j}.{*}", "{j}-{i}.{*}")


@pytest.mark.parametrize(
    ("rule", "theirs", "ours"),
    [
        (Rule("pos_embed", "vit.pos_embed"), "pos_embed", "vit.pos_embed"),
        (SHIFTED, "neck.0.conv.weight", "pyramid2.weight"),
        (SHIFTED, "neck.11.conv.num_batches_tracked", "pyramid13.num_batches_tracked"),
        (NESTED, "a.3.b.10.x.y.0", "10-3.x.y.0"),
    ],
)
def test_a_rule_works_both_ways(rule: Rule, theirs: str, ours: str) -> None:
    assert rule.to_ours(theirs) == ours
    assert rule.to_theirs(ours) == theirs


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        (Rule("pos_embed", "vit.pos_embed"), "pos_embed.weight"),
        (Rule("pos_embed", "vit.pos_embed"), "x.pos_embed"),
        (Rule("a.b", "c"), "aXb"),  # the dot is a dot
        (SHIFTED, "neck.0.conv"),
        (SHIFTED, "neck.0.conv.norm.weight"),  # only the last component
        (SHIFTED, "neck.x.conv.weight"),
        (NESTED, "a.3.b.10."),
    ],
)
def test_other_names_are_left_to_other_rules(rule: Rule, theirs: str) -> None:
    assert rule.to_ours(theirs) is None


def test_numbers_do_not_fall_below_zero() -> None:
    assert SHIFTED.to_theirs("pyramid1.weight") is None


def test_the_first_matching_rule_is_used() -> None:
    renamer = Renamer([Rule("a.{i}.{leaf}", "number{i}.{leaf}"), Rule("a.{*}", "rest.{*}")])
    assert renamer.to_ours("a.1.weight") == "number1.weight"
    assert renamer.to_ours("a.x.weight") == "rest.x.weight"
    assert renamer.to_ours("b.weight") is None
    assert renamer.to_theirs("rest.1.weight") == "a.1.weight"
    assert renamer.to_theirs("a.1.weight") is None
