"""Training and evaluation: what ``train_net.py`` runs."""

from vit_adapter.engine.evaluation import evaluate
from vit_adapter.engine.precision import Precision
from vit_adapter.engine.processes import ProcessLayout, launch
from vit_adapter.engine.trainer import Trainer

__all__ = ["Precision", "ProcessLayout", "Trainer", "evaluate", "launch"]
