"""Comparing two results on the same data, with intervals that say what is noise."""

from vit_adapter.comparison.compare import Comparison, compare
from vit_adapter.comparison.results import Result, read_results
from vit_adapter.comparison.tables import format_comparison

__all__ = ["Comparison", "Result", "compare", "format_comparison", "read_results"]
