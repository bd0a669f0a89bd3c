"""The hybrid task cascade that is pre-trained on Objects365 and fine-tuned on COCO.

What differs from ``htc.py``: group norms in the pyramid, synchronised batch norms in the box heads,
a GIoU loss on decoded boxes, and the activations of the attention are recomputed.
"""

from vit_adapter.detection import GIoUBoxPredictor

from .htc import model, task

model.backbone.norm = "GN"
model.backbone.bottom_up.use_checkpoint = True
for _stage in range(3):
    model.roi_heads.box_heads[_stage].conv_norm = "SyncBN"
    _predictor = model.roi_heads.box_predictors[_stage]
    del _predictor.smooth_l1_beta
    _predictor._target_ = GIoUBoxPredictor
    _predictor.loss_weight = dict(loss_box_reg=10.0)
