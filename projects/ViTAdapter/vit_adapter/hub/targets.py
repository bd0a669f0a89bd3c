"""What the config of a portable folder may build.

``instantiate`` calls whatever ``_target_`` names. In a folder from someone else this could be any
function, so only classes that build models and read images are found here, each under its own name.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from vit_adapter.hub.manifest import FolderError

__all__ = ["with_targets"]

_MODEL_PACKAGES = (
    "vit_adapter.backbone",
    "vit_adapter.detection",
    "vit_adapter.layers",
    "vit_adapter.mask2former",
    "vit_adapter.segmentation",
    "detectron2.layers",
    "detectron2.modeling",
)
"""Packages whose modules (``nn.Module``) may be built."""

_OTHERS = frozenset(
    [
        "detectron2.data.build_detection_test_loader",
        "detectron2.data.get_detection_dataset_dicts",
        "detectron2.data.transforms.Resize",
        "detectron2.data.transforms.ResizeShortestEdge",
        "detectron2.layers.ShapeSpec",
        "detectron2.modeling.box_regression.Box2BoxTransform",
        "detectron2.modeling.matcher.Matcher",
        "vit_adapter.data.CheckedDatasetMapper",
        "vit_adapter.data.PanopticMapper",
        "vit_adapter.data.SemanticMapper",
        "vit_adapter.data.coco_test",
        "vit_adapter.data.resize",
        "vit_adapter.data.semantic_dataset_dicts",
        "vit_adapter.data.semantic_test",
        "vit_adapter.detection.ClampedBox2BoxTransform",
        "vit_adapter.detection.MaxIoUAssigner",
        "vit_adapter.detection.ProposalCriterion",
        "vit_adapter.detection.ProposalMatcher",
        "vit_adapter.evaluation.SemSegEvaluator",
        "vit_adapter.evaluation.build_coco_evaluator",
        "vit_adapter.evaluation.build_panoptic_evaluator",
        "vit_adapter.layers.norm_builder",
    ]
)
"""Everything else that may be called."""

_REFUSED_ARGUMENTS = {
    "cfg": "it would build a model from a yacs config",
    "output_dir": "it would choose where files are written",
    "proposal_files": "it would read pickles",
}

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def with_targets(value: Any, key: str = "config") -> Any:
    """Copy plain data, with the name under each ``_target_`` replaced by what it names.

    Args:
        value: nested dicts and lists of plain values.
        key: what messages call the value.

    Raises:
        FolderError: a target is not one that a portable folder may use, or gets an argument that it
            may not get, or a text holds an interpolation.
    """
    if isinstance(value, str) and "${" in value:
        raise FolderError(
            f"{key} is {value!r}, but texts in a portable folder are values: OmegaConf would "
            "replace what begins with ${, for example by a variable of the environment."
        )
    if isinstance(value, list):
        return [with_targets(child, f"{key}.{index}") for index, child in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    copied = {name: with_targets(child, f"{key}.{name}") for name, child in value.items()}
    if "_target_" in value:
        for name, reason in _REFUSED_ARGUMENTS.items():
            if name in value:
                raise FolderError(
                    f"{key}.{name} is not allowed in a portable folder: {reason}. Do not use this "
                    "folder unless you know why it is there."
                )
        copied["_target_"] = _find(value["_target_"], f"{key}._target_")
    return copied


def _find(name: object, key: str) -> Any:
    if isinstance(name, str) and _NAME.fullmatch(name):
        found = _find_listed(name) if name in _OTHERS else _find_module_class(name)
        if found is not None:
            return found
    raise FolderError(
        f"{key} is {name!r}, but a portable folder may only use the models of vit_adapter and "
        "Detectron2, and what reads images for them. Classes of your own cannot be carried in a "
        "folder: share their code, the config file and the checkpoint instead."
    )


def _find_listed(name: str) -> Any:
    module, _, leaf = name.rpartition(".")
    return getattr(import_module(module), leaf)


def _find_module_class(name: str) -> type[nn.Module] | None:
    """Find a model part by the module that has it; attributes of other things are not followed."""
    module, _, leaf = name.rpartition(".")
    if module == "vit_adapter":  # which offers the classes of its backbones
        module = "vit_adapter.backbone"
    if not _is_in_model_package(module):
        return None
    try:
        found = vars(import_module(module)).get(leaf)
    except ModuleNotFoundError:
        return None
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        return None
    # A module may also have imported the class from elsewhere.
    return found if _is_in_model_package(found.__module__) else None


def _is_in_model_package(module: str) -> bool:
    return any(module == known or module.startswith(f"{known}.") for known in _MODEL_PACKAGES)
