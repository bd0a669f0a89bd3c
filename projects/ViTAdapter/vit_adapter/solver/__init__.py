"""Parameter groups and learning-rate schedules of the ViT-Adapter recipes."""

from vit_adapter.solver.param_groups import custom_keys_param_groups, layer_decay_param_groups
from vit_adapter.solver.schedule import WarmupCosine, WarmupMultiStep, WarmupPoly

__all__ = [
    "WarmupCosine",
    "WarmupMultiStep",
    "WarmupPoly",
    "custom_keys_param_groups",
    "layer_decay_param_groups",
]
