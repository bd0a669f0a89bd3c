"""Reads the config text that the original stores in its checkpoints.

The text is Python, but it is only parsed; none of it is run.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["PixelStatistics", "StoredConfig", "read_stored_config"]


@dataclass(frozen=True)
class PixelStatistics:
    """How pixels are normalised before the network.

    Attributes:
        mean: per channel, in the order of ``channels``, on the 0 to 255 scale.
        std: per channel, like ``mean``.
        channels: "RGB" or "BGR".
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str = "RGB"

    def __str__(self) -> str:
        return f"{self.channels}, mean {list(self.mean)}, std {list(self.std)}"


@dataclass(frozen=True)
class StoredConfig:
    """The parts of a training config that the names and shapes of the weights do not show.

    Attributes:
        train: pixel statistics for training; None if the config has none or several.
        test: pixel statistics for evaluation; None likewise.
        backbone: arguments of the backbone.
    """

    train: PixelStatistics | None
    test: PixelStatistics | None
    backbone: Mapping[str, object]


def read_stored_config(checkpoint: Mapping[str, object]) -> StoredConfig | None:
    """Read the config text under ``meta.config``.

    Args:
        checkpoint: as stored in the file.

    Returns:
        The config, or None if the file holds no text or the text is not Python.
    """
    meta = checkpoint.get("meta")
    text = meta.get("config") if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        return None
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    config = {
        statement.targets[0].id: _evaluate(statement.value)
        for statement in statements
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    data, model = _mapping(config.get("data")), _mapping(config.get("model"))
    return StoredConfig(
        train=_single(_statistics(data.get("train"))),
        test=_single(_statistics(data.get("test"))),
        backbone=_mapping(model.get("backbone")),
    )


def _evaluate(node: ast.expr) -> object:
    """The value of a literal, a container of literals or ``dict(key=value)``, otherwise None."""
    if isinstance(node, ast.List | ast.Tuple):
        return [_evaluate(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_evaluate(key) if key is not None else None for key in node.keys]
        values = [_evaluate(value) for value in node.values]
        return {key: value for key, value in zip(keys, values, strict=True) if _is_name(key)}
    if isinstance(node, ast.Call):
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict"
        keywords = node.keywords if is_dict else []
        return {keyword.arg: _evaluate(keyword.value) for keyword in keywords if keyword.arg}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _is_name(key: object) -> bool:
    return isinstance(key, str)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _statistics(node: object) -> Iterator[PixelStatistics]:
    """Every normalisation inside the description of a data set."""
    if isinstance(node, list):
        for element in node:
            yield from _statistics(element)
    elif isinstance(node, Mapping):
        mean, std = node.get("mean"), node.get("std")
        if node.get("type") == "Normalize" and _are_numbers(mean) and _are_numbers(std):
            channels = "RGB" if node.get("to_rgb", True) else "BGR"
            yield PixelStatistics(tuple(map(float, mean)), tuple(map(float, std)), channels)
        for value in node.values():
            yield from _statistics(value)


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


def _single(found: Iterator[PixelStatistics]) -> PixelStatistics | None:
    different = set(found)
    return different.pop() if len(different) == 1 else None
