"""COCO schedules: x0.1 at two epochs, after a linear warm-up of 500 iterations from 0.001.

With large-scale jitter: a cosine to 0.01, one step an epoch, after a warm-up of 2000 iterations.

Semantic segmentation: linear decay to 0, times a linear warm-up of 1500 iterations from 1e-6.
``train.epochs`` and an override of ``train.max_iter`` move the milestones and the end of the decay,
and limit the warm-up to a tenth of the run (``vit_adapter.engine.schedule``).
"""

from detectron2.config import LazyCall as L

from vit_adapter.solver import WarmupCosine, WarmupMultiStep, WarmupPoly


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

# ViTDet's largest model: x0.1 after 8/9 and 26/27 of the run
lr_vitdet = _multi_step(epochs=27, milestones=[24, 26])
lr_vitdet.warmup_iters = 250

# Fine-tuning: constant after the warm-up, for any number of iterations
lr_constant = _multi_step(epochs=1, milestones=[])


def _cosine(epochs):
    return L(WarmupCosine)(
        max_iter="${train.max_iter}",
        epochs=epochs,
        end_factor=0.01,
        warmup_iters=2000,
        warmup_factor=0.001,
    )


# Detectors from MAE with large-scale jitter
lr_25ep, lr_50ep = _cosine(25), _cosine(50)

# From scratch on small data: the same shape over any number of iterations
lr_scratch = _multi_step(epochs=12, milestones=[9, 11])
lr_scratch.warmup_iters = 100

# For any number of iterations: train_40k, train_80k, train_160k
lr_poly = L(WarmupPoly)(
    max_iter="${train.max_iter}", power=1.0, warmup_iters=1500, warmup_factor=1e-6
)

# Mask2Former for instances and panoptic segmentation, without warm-up: the original's 36 epochs of
# 7,375 iterations, and the 50 epochs of Mask2Former's authors
lr_panoptic_3x = _multi_step(epochs=36, milestones=[26, 32])  # iterations 191,750 and 236,000
lr_mask2former_50ep = _multi_step(epochs=27, milestones=[24, 26])  # 24/27 and 26/27 of the run
lr_panoptic_3x.warmup_iters = lr_mask2former_50ep.warmup_iters = 0
# The same for shorter runs from DINOv2, as in EoMT, which holds the ViT during the warm-up
lr_mask2former = L(WarmupPoly)(
    max_iter="${train.max_iter}", power=0.9, warmup_iters=1500, warmup_factor=1e-6
)

# Semantic FPN, as in PVT
lr_semantic_fpn = L(WarmupPoly)(max_iter="${train.max_iter}", power=0.9, warmup_iters=0)
