"""The ``train`` node, which the training script itself reads.

COCO train2017 has 117,266 images with annotations. With 16 images per iteration an epoch is
117,266 / 16 = 7,329.1, rounded up to 7,330 iterations. All schedules train in float32. The DeiT
models published for the 3x schedule were trained in float16 (``train.amp.enabled=True``), which
the original turned off after their release. It trains the detectors from MAE in float16, and
UPerNet, except with BEiT and AugReg-L.

``epochs`` and ``auto_scale_lr`` adapt a schedule to other data and another batch size
(``vit_adapter.engine.schedule``); the published schedules use neither.
"""

_epoch = 7330


def _train(max_iter, period, eval_period, base_batch_size=16, max_norm=None):
    return dict(
        output_dir="./output",
        init_checkpoint="",  # weights of the whole model, matched strictly
        # weights of a plain ViT for the trunk: path, URL, timm:<name>; not read if init_checkpoint
        # has some of the trunk
        vit_checkpoint="",
        vit_patch_resize="pseudo_inverse",  # for its patch kernel; "bilinear" as in the original
        allow_mismatch=[],  # regular expressions of keys of init_checkpoint that need not match
        freeze=[],  # regular expressions of parameters that are not trained
        # with a frozen ViT: augmented views per image (0: a new one each time), and the folder
        # where the ViT's output for them is kept ("": nowhere)
        feature_cache=dict(dir="", views=0),
        # the norm of all gradients together is at most max_norm; norm_type is 2, 1, inf, ...
        clip_grad=dict(
            enabled=max_norm is not None, params=dict(max_norm=max_norm or 1.0, norm_type=2.0)
        ),
        max_iter=max_iter,
        epochs=None,  # a number sets max_iter and what depends on it from the size of the data
        auto_scale_lr=False,  # True: optimizer.lr x total batch / base_batch_size
        base_batch_size=base_batch_size,  # the total batch size that optimizer.lr is made for
        accumulate=1,  # micro-batches into which a process divides its part of the batch
        # "global": losses are means over all images of a step, however they are spread
        loss_normalization="published",
        # moving average (EMA) of the weights, stored and evaluated with them; the last key:
        # --eval-only and predictors use it instead of the weights
        model_ema=dict(enabled=False, decay=0.999, use_ema_weights_for_eval_only=False),
        amp=dict(enabled=False, dtype="float16"),
        # torch.compile of the backbone, with its arguments
        compile=dict(enabled=False, params=dict(mode="default", dynamic=None)),
        # several processes: "ddp" gives each a copy of the model; "fsdp" divides weights, gradients
        # and optimizer state among them
        parallel="ddp",
        ddp=dict(broadcast_buffers=False, find_unused_parameters=False),
        # period 0: only after the last iteration; trained_only: without the ViT's fixed weights;
        # sharded: folders, to which all processes write while training goes on
        checkpointer=dict(period=period, max_to_keep=3, trained_only=False, sharded=False),
        eval_period=eval_period,  # 0: only after the last iteration
        # model_best.pth: the checkpoint with the best value of a metric of metrics.json, such as
        # bbox/AP; patience: stop after so many evaluations in a row without a better value
        best=dict(metric="", mode="max", patience=None),
        eval_pictures=4,  # predictions that an evaluation draws beside their labels
        log_period=20,
        # trackers; params are the arguments of wandb.init, and those of mlflow.start_run with
        # the first two; what is empty is left to the library
        wandb=dict(enabled=False, params=dict(project="vit_adapter", name="")),
        mlflow=dict(
            enabled=False,
            params=dict(tracking_uri="", experiment_name="vit_adapter", run_name=""),
        ),
        device="auto",  # cuda if there is one
        seed=-1,  # of all random numbers; negative: drawn once
    )


train_1x = _train(max_iter=12 * _epoch, period=_epoch, eval_period=_epoch)  # 87,960
train_3x = _train(max_iter=36 * _epoch, period=_epoch, eval_period=_epoch)  # 263,880
# Large-scale jitter
train_25ep = _train(max_iter=25 * _epoch, period=_epoch, eval_period=_epoch)  # 183,250
train_50ep = _train(max_iter=50 * _epoch, period=_epoch, eval_period=_epoch)  # 366,500
# ViTDet's largest model: 75 epochs of 64 images
train_vitdet = _train(max_iter=138_281, period=5_000, eval_period=5_000, base_batch_size=64)
# Fine-tuning after Objects365
train_o365 = _train(max_iter=20_000, period=500, eval_period=500, base_batch_size=64, max_norm=0.1)
# Semantic segmentation: a checkpoint and an evaluation after every tenth of the run
train_40k = _train(max_iter=40_000, period=4_000, eval_period=4_000)
train_40k_clipped = _train(40_000, period=4_000, eval_period=4_000, max_norm=0.01)
train_80k = _train(max_iter=80_000, period=8_000, eval_period=8_000)
train_160k = _train(max_iter=160_000, period=16_000, eval_period=16_000)
# Mask2Former for instances and panoptic segmentation, with clipping. COCO has 118,287 images with
# segments, which are 7,393 iterations; the first two count 7,375.
train_panoptic_3x = _train(265_500, period=5_000, eval_period=5_000, max_norm=0.01)
train_mask2former_50ep = _train(368_750, period=5_000, eval_period=5_000, max_norm=0.01)
train_12ep = _train(12 * 7_393, period=7_393, eval_period=7_393, max_norm=0.01)
# 20,210 images of ADE20K are 1,264 iterations, 2,975 of Cityscapes are 186.
train_31ep = _train(31 * 1_264, period=1_264, eval_period=1_264, max_norm=0.01)
train_107ep = _train(107 * 186, period=1_860, eval_period=1_860, max_norm=0.01)
train_scratch = _train(max_iter=1200, period=400, eval_period=0, base_batch_size=4)
