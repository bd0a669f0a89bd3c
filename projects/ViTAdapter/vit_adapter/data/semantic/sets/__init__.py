"""Public data sets for semantic segmentation: one definition each, and their registration."""

from vit_adapter.data.catalog import data_root
from vit_adapter.data.semantic.sets.catalog import (
    check_prepared,
    register_semantic_sets,
    semantic_dataset_dicts,
)
from vit_adapter.data.semantic.sets.definition import Conversion, DataSet, Split
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL, LabelSet, read_label_set
from vit_adapter.data.semantic.sets.table import SETS

__all__ = [
    "IGNORE_LABEL",
    "SETS",
    "Conversion",
    "DataSet",
    "LabelSet",
    "Split",
    "check_prepared",
    "data_root",
    "read_label_set",
    "register_semantic_sets",
    "semantic_dataset_dicts",
]
