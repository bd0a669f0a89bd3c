"""A tiny training run as a command line, shared by the tests of ``train_net.py``.

The model is the quick-start one made tiny by overrides, the data are a few generated images given
as COCO-format files, so nearly all of the time goes into starting Python.
"""

from pathlib import Path

import pytest

from vit_adapter.data import generate_shapes

CONFIG = "configs/quick_start/mask_rcnn_vit_adapter_shapes.py"

TINY = [
    "model.backbone.bottom_up.vit.embed_dim=48",
    "model.backbone.out_channels=32",
    "model.roi_heads.box_head.fc_dims=[32,32]",
    "model.roi_heads.mask_head.conv_dims=[32,32]",
    "model.proposal_generator.pre_nms_topk=[100,50]",
    "model.proposal_generator.post_nms_topk=[50,20]",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
    "model.roi_heads.box_predictor.test_topk_per_image=5",
    "dataloader.train.mapper.augmentations.short_edges=[64]",
    "dataloader.test.mapper.augmentations.short_edges=[64]",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.device=cpu",
    "train.seed=7",
    "train.log_period=1",
    "train.eval_period=0",
    "train.checkpointer.period=1000",
]


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    return generate_shapes(root, num_train=6, num_val=3, image_size=64, seed=1)


@pytest.fixture()
def command(project_root: Path, shapes: Path, tmp_path: Path) -> list[str]:
    """A complete command line with its own output folder."""
    return [
        "--config-file",
        str(project_root / CONFIG),
        *TINY,
        f"data.train_json={shapes / 'annotations/instances_train.json'}",
        f"data.train_images={shapes / 'train'}",
        f"data.val_json={shapes / 'annotations/instances_val.json'}",
        f"data.val_images={shapes / 'val'}",
        f"train.output_dir={tmp_path / 'run'}",
    ]
