"""AdamW with the original's parameter groups (betas 0.9 and 0.999, eps 1e-8: torch's defaults).

``params.model`` is set by the training script.
"""

from detectron2.config import LazyCall as L
from torch.optim import AdamW

from vit_adapter.solver import custom_keys_param_groups, layer_decay_param_groups

# DeiT models
custom_keys = L(AdamW)(
    params=L(custom_keys_param_groups)(
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
        custom_keys=dict(
            level_embed=dict(decay_mult=0.0),
            pos_embed=dict(decay_mult=0.0),
            norm=dict(decay_mult=0.0),
            bias=dict(decay_mult=0.0),
        ),
    ),
    lr=1e-4,  # for batch 16
    weight_decay=0.05,
)

# large models
layer_decay = L(AdamW)(
    params=L(layer_decay_param_groups)(
        base_lr="${..lr}", weight_decay="${..weight_decay}", decay_rate=0.8
    ),
    lr=1e-4,  # for batch 16
    weight_decay=0.05,
)
