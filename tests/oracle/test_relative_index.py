"""BEiT's index buffers, which the project does without, against those of the original."""

from pathlib import Path

import numpy as np
import torch

from vit_adapter.checkpoint.original import convert, revert
from vit_adapter.checkpoint.original.relative_index import relative_index

GOLDEN = Path(__file__).parent / "golden"


def test_indexes_of_bias_tables() -> None:
    arrays = np.load(GOLDEN / "det_beit_window.npz")
    keys = [key.removeprefix("param/") for key in arrays.files if key.startswith("param/")]
    original = {key: torch.from_numpy(arrays[f"param/{key}"]) for key in keys}
    back = revert(convert(original).state_dict).state_dict
    assert set(back) == set(original)
    assert all(torch.equal(back[key], original[key]) for key in original)


def test_an_index_of_a_map_with_a_class_token() -> None:
    expected = np.load(GOLDEN / "seg_beit.npz")["param/blocks.0.attn.relative_position_index"]
    assert np.array_equal(relative_index(4, 6, class_token=True), expected)
