"""AdamW with the original's parameter groups (betas 0.9 and 0.999, eps 1e-8: torch's defaults).

``params.model`` is set by the training script.
"""

from copy import deepcopy as _deepcopy

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

# Small data: a pre-trained ViT stays near its weights if a mode or an override trains it.
pretrained_vit = _deepcopy(custom_keys)
pretrained_vit.params.custom_keys[".vit."] = dict(lr_mult=0.1, decay_mult=0.0)
pretrained_vit.params.custom_keys["vit.pos_embed"] = dict(lr_mult=0.1, decay_mult=0.0)
pretrained_vit.lr = 5e-4

# Sparse R-CNN: lower numbers for the learned proposals
sparse_rcnn = _deepcopy(custom_keys)
sparse_rcnn.params.custom_keys.proposal_generator = dict(lr_mult=0.25, decay_mult=0.002)


def _layer_decay(decay_rate, lr, weight_decay, first_layer_names=()):
    return L(AdamW)(
        params=L(layer_decay_param_groups)(
            base_lr="${..lr}",
            weight_decay="${..weight_decay}",
            decay_rate=decay_rate,
            first_layer_names=list(first_layer_names),
            as_published=True,  # False: without the mistakes of the original
        ),
        lr=lr,  # for batch 16
        weight_decay=weight_decay,
    )


# large models
layer_decay = _layer_decay(decay_rate=0.8, lr=1e-4, weight_decay=0.05)
htc_large = _layer_decay(decay_rate=0.9, lr=1e-4, weight_decay=0.05)
# As in the published DINOv2 detectors. There are none for DINOv3, which uses the same, like UPerNet
# and Semantic FPN.
dino_small = _layer_decay(decay_rate=0.70, lr=1e-4, weight_decay=0.05)
dino_base = _layer_decay(decay_rate=0.60, lr=1e-4, weight_decay=0.05)
dino_large = _layer_decay(decay_rate=0.65, lr=1e-4, weight_decay=0.05)
# As in the published Uni-Perceiver detector
uniperceiver_base = _layer_decay(decay_rate=0.65, lr=1e-4, weight_decay=0.05)
# ViTDet's rate for the base size, also used by EVA-02's own detectors; large sizes use 0.8
vitdet_base = _layer_decay(decay_rate=0.70, lr=1e-4, weight_decay=0.05)

# ViTDet's rate and decay for its largest size; norms and biases are not decayed here.
vitdet_giant = _layer_decay(decay_rate=0.90, lr=1e-4, weight_decay=0.1)

# Semantic segmentation with UPerNet
seg_tiny = _layer_decay(decay_rate=0.95, lr=12e-5, weight_decay=0.01)
seg_deit = _layer_decay(decay_rate=0.95, lr=6e-5, weight_decay=0.01)
seg_augreg_large = _layer_decay(decay_rate=0.95, lr=2e-5, weight_decay=0.05)
seg_uniperceiver_large = _layer_decay(decay_rate=0.8, lr=6e-5, weight_decay=0.05)
seg_beit_large = _layer_decay(decay_rate=0.9, lr=2e-5, weight_decay=0.05)
seg_augreg_base = _deepcopy(custom_keys)
seg_augreg_base.params.custom_keys.head = dict(lr_mult=10.0)
seg_augreg_base.lr, seg_augreg_base.weight_decay = 2e-5, 0.01

# Semantic FPN: no recipe was released; the paper refers to PVT's (arXiv 2102.12122).
semantic_fpn = _deepcopy(custom_keys)
semantic_fpn.params.custom_keys = {}
semantic_fpn.lr, semantic_fpn.weight_decay = 1e-4, 1e-4

# Mask2Former with BEiT-B and BEiT-L: as published, these parts train at the lowest rate.
_lowest = [
    f"head.transformer_decoder.{name}"
    for name in ("mask_embed", "cls_embed", "level_embed", "query_embed", "query_feat")
]
mask2former_base = _layer_decay(0.95, lr=3e-5, weight_decay=0.05, first_layer_names=_lowest)
mask2former_large = _layer_decay(0.9, lr=2e-5, weight_decay=0.05, first_layer_names=_lowest)
# The panoptic model with BEiTv2-L, where the head trains at the full rate
mask2former_panoptic_large = _layer_decay(decay_rate=0.9, lr=1e-4, weight_decay=0.05)
# Mask2Former with DINOv2, as in EoMT (arXiv 2503.19108)
mask2former_dinov2 = _layer_decay(decay_rate=0.8, lr=1e-4, weight_decay=0.05)
# The segmentor of DINOv2's authors: from a config that others derived from theirs
mask2former_dinov2_giant = _layer_decay(decay_rate=1.0, lr=1.8e-5, weight_decay=3.2e-3)
