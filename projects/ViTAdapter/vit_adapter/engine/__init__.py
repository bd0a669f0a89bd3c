"""Training and evaluation: what stands behind ``train_net.py``."""

from vit_adapter.engine.build import build_model
from vit_adapter.engine.config import UsageError, load_config
from vit_adapter.engine.custom_data import apply_custom_data
from vit_adapter.engine.evaluation import evaluate
from vit_adapter.engine.processes import ProcessLayout, launch
from vit_adapter.engine.trainer import Precision, Trainer

__all__ = [
    "Precision",
    "ProcessLayout",
    "Trainer",
    "UsageError",
    "apply_custom_data",
    "build_model",
    "evaluate",
    "launch",
    "load_config",
]
