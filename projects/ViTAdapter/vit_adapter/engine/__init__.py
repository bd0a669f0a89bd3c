"""Training and evaluation: what stands behind ``train_net.py``."""

from vit_adapter.engine.evaluation import evaluate
from vit_adapter.engine.precision import Precision
from vit_adapter.engine.processes import ProcessLayout, launch
from vit_adapter.engine.trainer import Trainer

__all__ = ["Precision", "ProcessLayout", "Trainer", "evaluate", "launch"]
