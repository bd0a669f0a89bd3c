"""The folder of all data sets, and repeatable registration in Detectron2's catalogs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata


def data_root() -> Path:
    """Return the absolute path of ``$DETECTRON2_DATASETS``, or of ``datasets``."""
    return Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser().absolute()


def describe_data_root() -> str:
    """Return a sentence for error messages that says how the folder is chosen, and which it is."""
    return (
        "The environment variable DETECTRON2_DATASETS names the folder of all data sets, "
        f"./datasets by default (now: {data_root()})."
    )


def register(name: str, load: Callable[[], list[dict[str, Any]]], **metadata: Any) -> Metadata:
    """Add a name to both catalogs, replacing any earlier entry.

    Args:
        name: name of the data set.
        load: returns its records.
        **metadata: content of the metadata catalog.

    Returns:
        The entry of the metadata catalog.
    """
    unregister(name)
    DatasetCatalog.register(name, load)
    return MetadataCatalog.get(name).set(**metadata)


def unregister(name: str) -> None:
    """Remove a name from both catalogs, if a data set is registered under it."""
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
