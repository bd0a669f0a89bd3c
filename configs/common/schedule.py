"""COCO schedules: x0.1 at two epochs, after a linear warm-up of 500 iterations from 0.001.

An override of ``train.max_iter`` takes the milestones with it.
"""

from detectron2.config import LazyCall as L

from vit_adapter.solver import WarmupMultiStep


def _multi_step(epochs, milestones):
    return L(WarmupMultiStep)(
        max_iter="${train.max_iter}",
        epochs=epochs,
        milestones=milestones,
        gamma=0.1,
        warmup_iters=500,
        warmup_factor=0.001,
    )


lr_1x = _multi_step(epochs=12, milestones=[8, 11])  # iterations 58,640 and 80,630
lr_3x = _multi_step(epochs=36, milestones=[27, 33])  # iterations 197,910 and 241,890

# from scratch on small data: the same shape over any number of iterations
lr_scratch = _multi_step(epochs=12, milestones=[9, 11])
lr_scratch.warmup_iters = 100
