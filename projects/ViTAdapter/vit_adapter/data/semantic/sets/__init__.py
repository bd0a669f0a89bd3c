"""Public data sets for semantic segmentation: classes, colours, and their names in Detectron2."""

from vit_adapter.data.catalog import data_root
from vit_adapter.data.semantic.sets.catalog import (
    check_prepared,
    register_semantic_sets,
    semantic_dataset_dicts,
)
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL, LabelSet, read_label_set

__all__ = [
    "IGNORE_LABEL",
    "LabelSet",
    "check_prepared",
    "data_root",
    "read_label_set",
    "register_semantic_sets",
    "semantic_dataset_dicts",
]
