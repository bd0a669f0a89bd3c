"""Tensors that are one tensor on one side and several on the other."""

import pytest
import torch

from vit_adapter.checkpoint.original.parts import join_parts, split_into_parts, without_part

PARTS = {"qkv@1/3": "q", "qkv@3/3": "v"}


def never(name: str) -> bool:
    return False


def test_a_tensor_is_split_if_only_its_parts_have_names() -> None:
    value = torch.arange(6.0)
    pieces = split_into_parts("qkv", value, PARTS.get)
    assert list(pieces) == ["qkv@1/3", "qkv@2/3", "qkv@3/3"]
    assert pieces["qkv@3/3"].tolist() == [4, 5]
    assert pieces["qkv@3/3"].data_ptr() == value[4:].data_ptr()  # a view
    whole = split_into_parts("qkv", value, {**PARTS, "qkv": "qkv"}.get)
    assert whole["qkv"] is value
    assert split_into_parts("other", value, PARTS.get)["other"] is value


@pytest.mark.parametrize("shape", [(7, 2), ()])
def test_parts_are_equal(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"qkv should consist of 3 equal parts, but has the shape"):
        split_into_parts("qkv", torch.zeros(shape), PARTS.get)


def test_joining_keeps_the_order_of_the_parts() -> None:
    tensors = {"w@2/2": torch.ones(1, 2), "x": torch.zeros(1), "w@1/2": torch.zeros(1, 2)}
    joined = join_parts(tensors, never)
    assert list(joined) == ["w", "x"]
    assert joined["w"].tolist() == [[0, 0], [1, 1]]
    assert joined["x"] is tensors["x"]
    assert without_part("w@2/2") == "w" and without_part("x") == "x"


def test_missing_parts_are_zeros_only_where_they_may_be_missing() -> None:
    tensors = {"b@1/3": torch.ones(1), "b@3/3": torch.ones(1)}
    assert join_parts(tensors, lambda name: name == "b@2/3")["b"].tolist() == [1, 0, 1]
    with pytest.raises(
        ValueError, match="b is incomplete: nothing in the checkpoint becomes b@2/3"
    ):
        join_parts(tensors, never)


def test_parts_have_the_same_shape() -> None:
    with pytest.raises(
        ValueError, match=r"should have the same shape, but have \[\(1,\), \(2,\)\]"
    ):
        join_parts({"b@1/2": torch.ones(1), "b@2/2": torch.ones(2)}, never)
