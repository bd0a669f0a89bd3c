"""Views of training images that follow from seeds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from vit_adapter.data.views import ImageViews, ViewMapper


class Records(Dataset):
    """Three records."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"file_name": f"images/{index}.png"}


def draw(record: dict[str, Any]) -> dict[str, Any]:
    """A mapper that uses all three generators and the record."""
    numbers = [np.random.rand(), random.random(), torch.rand(1).item()]
    return {**record, "image": torch.tensor(numbers), "labels": np.random.randint(1000)}


def test_each_record_is_listed_once_for_each_view() -> None:
    views = ImageViews(Records(), 2)
    assert len(views) == 6
    listed = [(views[i]["file_name"], views[i]["view"]) for i in range(6)]
    assert sorted(listed) == [(f"images/{i}.png", view) for i in range(3) for view in range(2)]


def test_a_view_is_always_the_same() -> None:
    views, mapper = ImageViews(Records(), 2), ViewMapper(draw)
    first = [mapper(views[i]) for i in range(6)]
    again = [mapper(views[i]) for i in reversed(range(6))][::-1]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert (one["labels"], one["view_key"]) == (other["labels"], other["view_key"])
    assert len({record["view_key"] for record in first}) == 6
    assert len({record["labels"] for record in first}) > 1
    assert "view" not in first[0]  # models do not know it


def test_a_view_survives_moving_the_data_set() -> None:
    mapper = ViewMapper(draw)
    here, there, other = (
        mapper({"file_name": str(Path(folder, "0.png")), "view": 1})["view_key"]
        for folder in ("/a/images", "/b/c/images", "/a/pictures")
    )
    assert here == there != other


def test_generators_continue_as_if_nothing_was_drawn() -> None:
    def next_numbers() -> list[float]:
        return [np.random.rand(), random.random(), torch.rand(1).item()]

    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    expected = next_numbers()
    np.random.set_state(states[0]), random.setstate(states[1]), torch.set_rng_state(states[2])
    ViewMapper(draw)({"file_name": "0.png", "view": 0})
    assert next_numbers() == expected


@pytest.mark.parametrize(
    "change", [lambda image: image + 1, lambda image: image.int(), lambda image: image[:, :2]]
)
def test_the_key_follows_the_pixels(change) -> None:
    image = torch.full((3, 4, 4), 7, dtype=torch.uint8)
    keys = [
        ViewMapper(lambda record, made=made: {"image": made})({"file_name": "0.png", "view": 0})
        for made in (image, image.clone(), change(image))
    ]
    assert keys[0]["view_key"] == keys[1]["view_key"] != keys[2]["view_key"]


def test_mappers_may_skip_a_record() -> None:
    assert ViewMapper(lambda record: None)({"file_name": "0.png", "view": 0}) is None
