"""Experiment trackers: writers that send a run to Weights & Biases or to MLflow."""

from vit_adapter.engine.trackers.build import build_trackers, check_trackers

__all__ = ["build_trackers", "check_trackers"]
