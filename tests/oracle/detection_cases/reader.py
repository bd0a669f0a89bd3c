"""Reads the golden cases of the detectors.

They lie in the folder named by ``VIT_ADAPTER_GOLDEN_DETECTION``, by default
``tests/oracle/golden_detection``. Sizes come from the arrays, constants are those of the original's
configs. Parameters have the original's names and go through the converter.

A test says with :func:`reads` which arrays it reads. It fails if it leaves one of them out, and
``test_golden_detection.py`` fails if there are arrays that no test reads.
"""

import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from vit_adapter.checkpoint import load_strict
from vit_adapter.checkpoint.original import convert, convert_state_dict

FOLDER = Path(
    os.environ.get("VIT_ADAPTER_GOLDEN_DETECTION") or Path(__file__).parents[1] / "golden_detection"
)
INPUTS = "in."  # how the names of the inputs of a case begin
Arrays = Mapping[str, Tensor]

CLAIMS: list[tuple[str, tuple[str, ...]]] = []
"""Which files the tests read, and which of their arrays."""


def read(name: str) -> dict[str, Tensor]:
    """All arrays of a file."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


class Case(Arrays):
    """The arrays of a file that one test reads, and the inputs that they belong to.

    Args:
        kind: what comes before the first "_" in the name of the file.
        arrays: by name.
        unread: names of the arrays that nobody has asked for yet.
        prefix: only the names that begin with this are visible, without it.
    """

    def __init__(
        self, kind: str, arrays: dict[str, Tensor], unread: set[str], prefix: str = ""
    ) -> None:
        self.kind = kind
        self.unread = unread
        self._arrays = arrays
        self._prefix = prefix

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(self._prefix + name)
        return self._arrays[self._prefix + name]

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}" in self._arrays

    def __iter__(self) -> Iterator[str]:
        start = self._prefix
        return (name.removeprefix(start) for name in self._arrays if name.startswith(start))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def within(self, prefix: str) -> "Case":
        """The arrays whose names begin with ``prefix``, without it."""
        return Case(self.kind, self._arrays, self.unread, self._prefix + prefix)

    def numbered(self, name: str, *, first: int = 0) -> list[Tensor]:
        """The arrays ``name0``, ``name1``, ..., from the number ``first`` on."""
        count = sum(each.removeprefix(name).isdecimal() for each in self if each.startswith(name))
        return [self[f"{name}{i}"] for i in range(first, first + count)]


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def open_case(file: str, names: tuple[str, ...]) -> Case:
    """The inputs in a file, and the arrays with one of the names."""
    arrays = {k: v for k, v in read(file).items() if k.startswith(INPUTS) or matches(k, names)}
    unread = {name for name in arrays if not name.startswith(INPUTS)}
    return Case(file.partition("_")[0], arrays, unread)


def reads(files: str, *names: str) -> pytest.MarkDecorator:
    """Run a test, which has an argument ``case``, for each of some files.

    Args:
        files: names without suffix, with wildcards; several are separated by spaces.
        names: of arrays, with wildcards.
    """
    CLAIMS.extend((file, names) for file in files.split())
    found = sorted(path.stem for file in files.split() for path in FOLDER.glob(f"{file}.npz"))
    params = [(file, names) for file in found]
    return pytest.mark.parametrize("case", params, ids=found, indirect=True)


def check(computed: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Compare relative to the largest magnitude; whole numbers exactly.

    Results in float32 are compared if the tolerance allows it.
    """
    computed = computed.detach()
    if not expected.is_floating_point():
        assert torch.equal(computed.to(expected.dtype), expected)
        return
    assert computed.dtype == torch.float64 or tolerance > 1e-7
    assert computed.shape == expected.shape
    scale = max(expected.abs().max().item() if expected.numel() else 0.0, 1e-3)
    torch.testing.assert_close(
        computed.to(expected.dtype), expected, rtol=0, atol=tolerance * scale
    )


def check_detections(found: tuple[Tensor, Tensor, Tensor], expected: Arrays, image: int) -> Tensor:
    """Compare boxes (N, 4), scores (N,) and labels (N,) in any order.

    Args:
        found: boxes, scores and labels.
        expected: arrays ``boxes``, ``scores`` and ``labels``, numbered by image.
        image: number of the image.

    Returns:
        (N,), which detection is the first expected one, the second, ...
    """
    boxes, scores, labels = found
    expected_boxes, expected_scores, expected_labels = (
        expected[f"{name}{image}"] for name in ("boxes", "scores", "labels")
    )
    assert len(boxes) == len(expected_boxes)
    differences = torch.cdist(
        torch.cat([expected_boxes, expected_scores[:, None]], dim=1),
        torch.cat([boxes, scores[:, None]], dim=1),
    )
    differences[expected_labels[:, None] != labels] = 1e9  # pairs of another label come last
    pairs = torch.from_numpy(linear_sum_assignment(differences)[1])
    check(labels[pairs], expected_labels)
    check(boxes[pairs], expected_boxes)
    check(scores[pairs], expected_scores)
    return pairs


def load_parameters(part: nn.Module, parameters: Arrays, *, theirs: str, ours: str) -> None:
    """Give a part of a model its parameters, which have the original's names.

    Args:
        part: the module that is ``ours`` in a model.
        parameters: without the prefix ``theirs``.
        theirs: name of the part in the original, such as "roi_head".
        ours: name of the part here, such as "roi_heads".
    """
    converted = convert_state_dict({f"{theirs}.{k}": v for k, v in parameters.items()})
    load_strict(part, {k.removeprefix(f"{ours}."): v for k, v in converted.items()})


def check_gradients(
    part: nn.Module, expected: Arrays, *, kind: str, theirs: str, ours: str
) -> None:
    """Compare the gradients of some parameters, which have the original's names.

    ``kind`` is that of the case; the other arguments are as in :func:`load_parameters`.
    """
    assert expected
    conversion = convert({f"{theirs}.{k}": v for k, v in read(f"{kind}_params").items()})
    for name, gradient in expected.items():
        our_name = conversion.names[f"{theirs}.{name}"].removeprefix(f"{ours}.")
        check(part.get_parameter(our_name).grad, gradient)


def check_feature_gradients(features: Arrays, expected: Case) -> None:
    """Compare the gradients of features.

    Args:
        features: of the pyramid, finest first.
        expected: ``feat<level>`` for some levels; for all of them, ``feat_abs_sum``.
    """
    gradients = [
        torch.zeros_like(feature) if feature.grad is None else feature.grad
        for feature in features.values()
    ]
    for level, gradient in enumerate(gradients):
        if f"feat{level}" in expected:
            check(gradient, expected[f"feat{level}"])
    if "feat_abs_sum" in expected:
        check(torch.stack([each.abs().sum() for each in gradients]), expected["feat_abs_sum"])


def read_features(case: Case, *, first: int = 2) -> dict[str, Tensor]:
    """The maps of a pyramid whose finest level is p2, or p``first``."""
    maps = case.numbered("in.feat")
    return {f"p{i + first}": each.clone().requires_grad_() for i, each in enumerate(maps)}


def read_sizes(case: Arrays) -> list[tuple[int, int]]:
    return [tuple(size) for size in case["in.img_shape"].tolist()]


def read_images(case: Arrays) -> ImageList:
    """The images' sizes, and a batch without content."""
    sizes = read_sizes(case)
    return ImageList(torch.empty(len(sizes), 3, *case["in.batch_shape"].tolist()), sizes)


def read_targets(case: Arrays, *, empty: bool = False) -> list[Instances]:
    """The ground truths of each image; none if ``empty``."""
    targets = []
    for i, size in enumerate(read_sizes(case)):
        boxes, classes = case[f"in.gt_bboxes{i}"], case[f"in.gt_labels{i}"]
        truths = Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes)
        if f"in.gt_masks{i}" in case:
            truths.gt_masks = BitMasks(case[f"in.gt_masks{i}"])
        targets.append(truths[:0] if empty else truths)
    return targets


def read_proposals(case: Arrays, name: str) -> list[Instances]:
    return [
        Instances(size, proposal_boxes=Boxes(case[f"{name}{i}"]))
        for i, size in enumerate(read_sizes(case))
    ]
