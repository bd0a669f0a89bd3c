"""Exporting a model to one file and describing it."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from vit_adapter.config.errors import UsageError
from vit_adapter.export.checks import Check, check_run
from vit_adapter.export.formats import FORMATS, Run
from vit_adapter.export.models import ExportableModel, why_one_size
from vit_adapter.export.shapes import ImageShapes
from vit_adapter.ops.exporting import exporting
from vit_adapter.utils.atomic import atomic_file, atomic_open

__all__ = ["description_path", "export_model", "trace"]

logger = logging.getLogger(__name__)


def trace(core: ExportableModel, shapes: ImageShapes) -> ExportedProgram:
    """Record a model as a graph of PyTorch's own operations.

    Raises:
        UsageError: this model cannot have a graph for these shapes.
    """
    reason = why_one_size(core) if shapes.dynamic_size else ""
    if reason:
        raise UsageError(
            f"the model cannot be exported for images of any size: {reason}. Leave out "
            "--dynamic-size, and export one file for each size that you need"
        )
    dimensions = shapes.dynamic_dimensions()
    try:
        with torch.no_grad(), exporting():
            return torch.export.export(
                core,
                (shapes.example(),),
                dynamic_shapes=(dimensions,) if dimensions else None,
                strict=False,
            )
    except Exception as error:  # of many types, most of them private
        if not dimensions:
            raise
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"the model cannot be exported for images of varying shapes: {reason}. Leave out "
            "--dynamic-size or --dynamic-batch"
        ) from error


def export_model(
    core: ExportableModel,
    shapes: ImageShapes,
    path: Path,
    *,
    file_format: str,
    description: dict[str, Any],
    check: bool = True,
    check_data: Callable[[Run], object] | None = None,
) -> Check | None:
    """Write a model and its description; both appear only after the checks.

    Args:
        core: see :func:`vit_adapter.export.models.exportable`.
        shapes: the shapes of images that the file accepts.
        path: the file. The description is beside it, see :func:`description_path`.
        file_format: a key of :data:`vit_adapter.export.formats.FORMATS`.
        description: what the JSON beside the file says, apart from the check.
        check: whether to run the file and to compare its outputs with the model's.
        check_data: evaluates the file on data; the description holds what it returns.

    Returns:
        The comparison of outputs, if it was wanted.

    Raises:
        UsageError: the file cannot be made, or its outputs are not those of the model.
    """
    kind = FORMATS[file_format]
    kind.require_packages()
    logger.info("Tracing the model for images %s.", shapes.described())
    program = trace(core, shapes)
    with atomic_file(path) as unfinished:
        logger.info("Writing %s.", path)
        kind.write(program, core.output_names, unfinished)
        result = None
        checks: dict[str, Any] = {"check": None, "check_data": None}
        if check:
            result = check_run(core, kind.load(unfinished), shapes)
            checks["check"] = result.described()
            logger.info("The largest difference from the model is %.1e.", result.largest)
            if result.empty:
                logger.warning(
                    "The model found nothing in the random images, so the check says little about "
                    "%s. Give --check-data.",
                    ", ".join(result.empty),
                )
        if check_data is not None:
            checks["check_data"] = check_data(kind.load(unfinished))
        with atomic_open(description_path(path)) as stream:
            json.dump({**description, **checks}, stream, indent=2)
            stream.write("\n")
    return result


def description_path(path: Path) -> Path:
    """The path of the JSON beside an exported file, which names the file in full."""
    return path.with_name(f"{path.name}.json")
