"""Detectors as functions of tensors, for export."""

from vit_adapter.export.detectors.build import ExportableDetector, exportable_detector

__all__ = ["ExportableDetector", "exportable_detector"]
