"""Batches as plain data, which can be stored and read without running code from the file.

Detectron2's input dicts hold objects of its own. Each becomes a dict that names its kind, and is
made again from that.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks, RotatedBoxes
from torch import Tensor

__all__ = ["from_plain", "to_plain"]

_KIND = "__kind__"


def to_plain(value: Any) -> Any:
    """Return nested dicts, lists, tensors on the CPU and plain values; nothing shares memory.

    Masks are stored as bits. An object of another kind becomes a dict that names only its class.

    Args:
        value: an input dict, or anything inside one.
    """
    if isinstance(value, Enum):  # such as BoxMode, which is an int as well
        return to_plain(value.value)
    if isinstance(value, np.generic):  # float64 is a float as well
        return value.item()
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    is_numeric = not isinstance(value, np.ndarray) or value.dtype.kind in "biufc"
    for kind, (cls, take, _) in _KINDS.items():
        if type(value) is cls and is_numeric:
            return {_KIND: kind, **take(value)}
    return {_KIND: "left out", "class": f"{type(value).__module__}.{type(value).__qualname__}"}


def from_plain(value: Any) -> Any:
    """Return what :func:`to_plain` was given, with tensors on the CPU.

    Objects that were left out become None.
    """
    if isinstance(value, list):
        return [from_plain(entry) for entry in value]
    if not isinstance(value, Mapping):
        return value
    if _KIND not in value:
        return {key: from_plain(entry) for key, entry in value.items()}
    if value[_KIND] not in _KINDS:
        return None
    return _KINDS[value[_KIND]][2](value)


def _pack(masks: BitMasks) -> dict[str, Any]:
    bits = np.packbits(masks.tensor.cpu().numpy().astype(bool), axis=None)
    return {"bits": torch.from_numpy(bits), "shape": list(masks.tensor.shape)}


def _unpack(plain: Mapping[str, Any]) -> BitMasks:
    shape = plain["shape"]
    bits = np.unpackbits(plain["bits"].numpy(), count=int(np.prod(shape)))
    return BitMasks(torch.from_numpy(bits.astype(bool)).reshape(shape))


def _take_fields(instances: Instances) -> dict[str, Any]:
    fields = {name: to_plain(field) for name, field in instances.get_fields().items()}
    return {"image_size": list(instances.image_size), "fields": fields}


def _make_instances(plain: Mapping[str, Any]) -> Instances:
    fields = {name: from_plain(field) for name, field in plain["fields"].items()}
    return Instances(tuple(plain["image_size"]), **fields)


def _tensor_of(cls: type) -> tuple[type, Callable, Callable]:
    return cls, lambda value: {"tensor": to_plain(value.tensor)}, lambda plain: cls(plain["tensor"])


_KINDS: dict[str, tuple[type, Callable[[Any], dict], Callable[[Mapping[str, Any]], Any]]] = {
    "Instances": (Instances, _take_fields, _make_instances),
    "Boxes": _tensor_of(Boxes),
    "RotatedBoxes": _tensor_of(RotatedBoxes),
    "Keypoints": _tensor_of(Keypoints),
    "BitMasks": (BitMasks, _pack, _unpack),
    "PolygonMasks": (
        PolygonMasks,
        lambda masks: {"polygons": to_plain(masks.polygons)},
        lambda plain: PolygonMasks(from_plain(plain["polygons"])),
    ),
    "array": (
        np.ndarray,
        lambda array: {"tensor": torch.from_numpy(array.copy())},
        lambda plain: plain["tensor"].numpy(),
    ),
}
