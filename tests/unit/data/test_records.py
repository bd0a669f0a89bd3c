"""Records in compact storage, and the orientation of their images."""

import pytest
from torch.utils.data import Dataset

from vit_adapter.data.records import Records, find_landscape
from vit_adapter.data.views import ImageViews

SIZES = [(3, 2), (2, 3), (2, 2)]  # width and height
EXPECTED = [True, False, False]


def list_records() -> list[dict]:
    return [{"file_name": "a.png", "width": width, "height": height} for width, height in SIZES]


class Counting(Dataset):
    """Counts how often a record is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict:
        self.reads += 1
        return list_records()[index]


def test_records_know_the_orientation_without_being_read_again(monkeypatch) -> None:
    records = Records(list_records())
    assert [records[index] for index in range(3)] == list_records()
    monkeypatch.setattr(Records, "__getitem__", None)
    assert find_landscape(records).tolist() == EXPECTED
    assert find_landscape(ImageViews(records, 2)).tolist() == EXPECTED * 2


def test_any_data_set_can_be_read() -> None:
    data = Counting()
    assert find_landscape(data).tolist() == EXPECTED
    assert data.reads == 3
    assert find_landscape(ImageViews(data, 3)).tolist() == EXPECTED * 3


@pytest.mark.parametrize("key", ["width", "height"])
def test_only_the_orientation_needs_sizes(key: str) -> None:
    content = list_records()
    del content[1][key]
    records = Records(content)
    assert records[1] == content[1]
    for data in (records, ImageViews(records, 2)):
        with pytest.raises(ValueError, match=f"has no '{key}'.*aspect_ratio_grouping=False"):
            find_landscape(data)
