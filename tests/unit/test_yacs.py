"""Detectron2's own predictor and trainer with a ViT-Adapter, from a yacs config."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import BoxMode
from PIL import Image

import vit_adapter
from vit_adapter import LazyPredictor, model_zoo

DOCS = Path(vit_adapter.__file__).parents[1] / "docs"
SIZES = ("tiny", "small", "base", "large")


def documented_config() -> CfgNode:
    """The config that docs/prediction.md shows, on the CPU."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "prediction.md").read_text(), re.DOTALL)
    cfg = get_cfg()
    vit_adapter.add_vit_adapter_config(cfg)
    cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def small_config() -> CfgNode:
    """The same with a tiny model, small images and three classes."""
    cfg = documented_config()
    node = cfg.MODEL.VIT_ADAPTER
    node.EMBED_DIM, node.DEPTH, node.NUM_HEADS, node.DEFORM_NUM_HEADS = 32, 4, 2, 4
    node.WINDOW_SIZES = [2, 0, 2, 0]
    node.INTERACTION_INDEXES = [[0, 1], [2, 3]]
    node.CONV_INPLANE = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 160
    return cfg


def small_lazy_config():
    """The model of ``small_config`` as a LazyConfig."""
    cfg = model_zoo.get_config("quick_start/mask_rcnn_vit_adapter_shapes")
    cfg.model = model_zoo.get_config("common/models/mask_rcnn").model
    bottom_up = model_zoo.get_config("common/models/vit_adapter").tiny
    bottom_up.vit.update(embed_dim=32, depth=4, num_heads=2, window_sizes=[2, 0, 2, 0])
    bottom_up.update(interaction_indexes=[[0, 1], [2, 3]], conv_inplane=8, deform_num_heads=4)
    cfg.model.backbone.update(bottom_up=bottom_up, out_channels=16)
    heads = cfg.model.roi_heads
    heads.num_classes = 3
    heads.box_head.fc_dims = [32, 32]
    heads.box_predictor.test_score_thresh = 0.0
    heads.mask_head.conv_dims = [16, 16]
    cfg.dataloader.test.mapper.augmentations.update(short_edges=[96], max_size=160)
    cfg.train.device = "cpu"
    return cfg


@pytest.mark.parametrize("size", SIZES)
def test_defaults_are_those_of_the_lazy_configs(size):
    cfg = documented_config()
    cfg.MODEL.VIT_ADAPTER.SIZE = size
    lazy = model_zoo.get_config("common/models/vit_adapter")[size]
    with torch.device("meta"):
        found = {
            name: tuple(value.shape)
            for name, value in build_backbone(cfg).bottom_up.state_dict().items()
        }
        expected = {
            name: tuple(value.shape) for name, value in instantiate(lazy).state_dict().items()
        }
    assert found == expected


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("IMG_SIZE", "vit.img_size"),
        ("EMBED_DIM", "vit.embed_dim"),
        ("DEPTH", "vit.depth"),
        ("NUM_HEADS", "vit.num_heads"),
        ("DROP_PATH_RATE", "drop_path_rate"),
        ("DEFORM_NUM_HEADS", "deform_num_heads"),
        ("DEFORM_RATIO", "deform_ratio"),
    ],
)
def test_the_docstring_states_the_sizes(key, name):
    row = re.search(rf"``{key}``\s+([\d. /]+)", vit_adapter.add_vit_adapter_config.__doc__)
    sizes = model_zoo.get_config("common/models/vit_adapter")
    values = []
    for size in SIZES:
        value = sizes[size]
        for part in name.split("."):
            value = value[part]
        values.append(float(value))
    assert [float(text) for text in row[1].split("/")] == values


def test_mode_reaches_the_backbone():
    cfg = small_config()
    cfg.MODEL.VIT_ADAPTER.MODE = "frozen"
    cfg.MODEL.BACKBONE.NAME = "build_vit_adapter_backbone"
    backbone = build_backbone(cfg)
    assert backbone.mode == "frozen"
    assert not any(parameter.requires_grad for parameter in backbone.vit.parameters())


def test_every_key_reaches_the_backbone():
    cfg = small_config()
    node = cfg.MODEL.VIT_ADAPTER
    node.IMG_SIZE, node.LAYER_SCALE, node.NUM_POINTS, node.DEFORM_RATIO = 64, False, 2, 0.5
    node.CFFN_RATIO, node.USE_EXTRA_EXTRACTOR, node.INIT_VALUES, node.NORM = 0.5, False, 0.25, "GN"
    node.VIT_FEATURE_FUSION, node.OUT_FEATURES = "none", ["res3", "res4"]
    node.NORM, node.DROP_PATH_RATE, node.USE_CHECKPOINT = "FrozenBN", 0.5, True
    cfg.MODEL.BACKBONE.NAME = "build_vit_adapter_backbone"
    backbone = build_backbone(cfg)
    names = dict(backbone.named_parameters())
    attention = backbone.interactions[0].injector.attn
    assert backbone.vit.pos_embed.shape[1] == 1 + 4 * 4
    assert not [name for name in names if name.endswith(("gamma1", "gamma2"))]
    assert attention.sampling_offsets.out_features == 4 * 3 * 2 * 2
    assert attention.value_proj.out_features == 16
    assert not [name for name in names if "extra_extractors" in name]
    assert torch.all(backbone.interactions[0].injector.gamma == 0.25)
    assert type(backbone.norm1).__name__ == "FrozenBatchNorm2d"
    assert backbone.vit_feature_fusion == "none"
    assert list(backbone.output_shape()) == ["res3", "res4"]
    node.WITH_CFFN = False
    assert not [name for name, _ in build_backbone(cfg).named_parameters() if "ffn" in name]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Config whose weights are a file written by Detectron2's own checkpointer."""
    torch.manual_seed(0)
    cfg = small_config()
    folder = tmp_path_factory.mktemp("yacs")
    DetectionCheckpointer(build_model(cfg), str(folder)).save("model")
    cfg.MODEL.WEIGHTS = str(folder / "model.pth")
    return cfg


def test_default_predictor_equals_lazy_predictor(saved):
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    expected = DefaultPredictor(saved)(image)["instances"]
    found = LazyPredictor(small_lazy_config(), saved.MODEL.WEIGHTS)(image)["instances"]
    assert len(expected) > 5
    assert found.image_size == expected.image_size == (70, 90)
    # Detectron2 decodes boxes in another order of operations.
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert torch.equal(found.pred_masks, expected.pred_masks)


def test_trunk_starts_from_plain_vit_weights(tmp_path):
    cfg = small_config()
    vit = build_backbone(cfg).bottom_up.vit
    torch.save({"model": vit.state_dict()}, tmp_path / "vit.pth")
    cfg.MODEL.VIT_ADAPTER.VIT_CHECKPOINT = str(tmp_path / "vit.pth")
    loaded = build_backbone(cfg).bottom_up.vit
    assert all(
        torch.equal(a, b) for a, b in zip(vit.parameters(), loaded.parameters(), strict=True)
    )


@pytest.fixture
def one_image(tmp_path):
    """Name of a registered data set of one image with one object."""
    name = "yacs_one_image"
    Image.new("RGB", (96, 80), "gray").save(tmp_path / "image.png")
    annotation = {
        "bbox": [8.0, 8.0, 40.0, 40.0],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 1,
        "segmentation": [[8.0, 8.0, 40.0, 8.0, 40.0, 40.0]],
    }
    record = {"file_name": str(tmp_path / "image.png"), "image_id": 0, "height": 80, "width": 96}
    DatasetCatalog.register(name, lambda: [{**record, "annotations": [annotation]}])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_default_trainer_trains_the_backbone(one_image, tmp_path):
    cfg = small_config()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (one_image,), ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR = 1, 2, 1e-3
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    before = trainer.model.backbone.bottom_up.spm.fc1.weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.backbone.bottom_up.spm.fc1.weight)
    assert Path(cfg.OUTPUT_DIR, "model_final.pth").is_file()


def test_invalid_configs_are_refused():
    cfg = small_config()
    cfg.MODEL.VIT_ADAPTER.SIZE = "medium"
    with pytest.raises(ValueError, match="MODEL.VIT_ADAPTER.SIZE is 'medium'.*'base'.*'tiny'"):
        build_backbone(cfg)
    with pytest.raises(ValueError, match=r"has 1 channels, expected 3\. .*input_channels=1\."):
        build_backbone(small_config(), ShapeSpec(channels=1))
    plain = get_cfg()
    plain.MODEL.BACKBONE.NAME = "build_vit_adapter_fpn_backbone"
    with pytest.raises(ValueError, match=r"add_vit_adapter_config\(cfg\)"):
        build_backbone(plain)


def test_semantic_segmentors():
    cfg = small_config()
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    node = cfg.MODEL.SEM_SEG_HEAD
    node.NUM_CLASSES, node.CONVS_DIM, node.NORM, node.IGNORE_VALUE = 4, 64, "GN", 255
    inputs = [{"image": torch.zeros(3, 64, 96), "sem_seg": torch.zeros(64, 96).long()}] * 2
    for head, backbone, prefix in (
        ("HeadWithAuxiliary", "build_vit_adapter_backbone", "res"),
        ("SemanticFPNHead", "build_vit_adapter_fpn_backbone", "p"),
    ):
        node.NAME, cfg.MODEL.BACKBONE.NAME = head, backbone
        node.IN_FEATURES = [f"{prefix}{level}" for level in (2, 3, 4, 5)]
        model = build_model(cfg)
        assert set(model(inputs)) >= {"loss_sem_seg"}
        assert model.eval()(inputs)[0]["sem_seg"].shape == (4, 64, 96)
