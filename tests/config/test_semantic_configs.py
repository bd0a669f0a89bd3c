"""The segmentors of the tables: every row has a config, whose parts agree with its name."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from vit_adapter import model_zoo
from vit_adapter.backbone import BEiT
from vit_adapter.config.data_checks import dataset_names
from vit_adapter.config.tasks import num_classes
from vit_adapter.data.checks import class_names
from vit_adapter.data.semantic.sets import SETS

FOLDERS = tuple(f"{name}/" for name in SETS)
OTHER_TASKS = re.compile(r"\w+/mask2former_(instance|panoptic)_")
NAMES = [
    name
    for name in model_zoo.list_configs()
    if name.startswith(FOLDERS) and not OTHER_TASKS.match(name)
]
# The original's published models (with different file names), and the paper's Semantic FPN.
PUBLISHED = {
    "ade20k": [
        *(f"{head}_{backbone}_{size}_deit_512_{schedule}"
          for head, schedule in (("upernet", "160k"), ("semantic_fpn", "80k"))
          for backbone in ("vit_adapter", "vit")
          for size in ("tiny", "small", "base")),
        *(f"upernet_vit_adapter_{size}_augreg_512_160k" for size in ("tiny", "base", "large")),
        *(f"semantic_fpn_vit_adapter_{size}_augreg_512_80k" for size in ("base", "large")),
        "upernet_vit_adapter_large_uniperceiver_512_160k",
        "semantic_fpn_vit_adapter_large_uniperceiver_512_80k",
        "upernet_vit_adapter_large_beit_640_160k",
        "upernet_vit_large_beit_512_160k",
        "mask2former_vit_adapter_large_augreg_640_160k",
        "mask2former_vit_adapter_large_beit_640_160k",
        "mask2former_vit_adapter_large_beit_896_80k",
        "mask2former_vit_adapter_large_beitv2_896_80k",
        "mask2former_vit_adapter_large_beitv2_896_160k",
        "mask2former_vit_adapter_giant_beit3_896_80k",
    ],
    "cityscapes": ["mask2former_vit_adapter_large_beit_896_80k"],
    "mapillary": ["mask2former_vit_adapter_large_beit_896_80k_for_cityscapes"],
    "coco_stuff_10k": [
        "mask2former_vit_adapter_base_beit_512_40k",
        "mask2former_vit_adapter_large_beit_512_40k",
        "upernet_vit_adapter_large_beit_512_80k",
    ],
    "coco_stuff_164k": [
        "mask2former_vit_adapter_large_beit_896_80k",
        "mask2former_vit_adapter_large_beitv2_896_80k",
        "upernet_vit_adapter_large_beit_640_80k",
    ],
    "pascal_context": [
        "mask2former_vit_adapter_base_beit_480_40k",
        "mask2former_vit_adapter_large_beit_480_40k",
        "upernet_vit_adapter_large_beit_480_80k",
    ],
}  # fmt: skip


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def cfg(name: str, load_config: Callable[[str], DictConfig]) -> DictConfig:
    return load_config(name)


def test_every_row_of_the_tables_has_a_config() -> None:
    rows = {f"{folder}/{name}" for folder, names in PUBLISHED.items() for name in names}
    assert rows <= set(NAMES)


def test_sizes_and_schedule_follow_the_name(name: str, cfg: DictConfig) -> None:
    crop, thousands = re.search(r"_(\d+)_(\d+)k", name).groups()
    square = [int(crop)] * 2
    assert list(cfg.data.crop_size) == list(cfg.test.sliding_window.crop_size) == square
    assert list(cfg.dataloader.train.mapper.pad_size) == square
    assert cfg.train.max_iter == int(thousands) * 1000
    assert cfg.dataloader.train.total_batch_size == 16
    if cfg.model.backbone.get("vit", cfg.model.backbone)._target_ == BEiT:
        assert cfg.model.backbone.vit.img_size == square[0]


def test_the_model_has_the_classes_of_its_data(cfg: DictConfig) -> None:
    _, count = num_classes(cfg)
    for split in ("train", "test"):
        for data_set in dataset_names(cfg, split):
            assert count == len(class_names(data_set, kind="stuff"))


def test_the_number_of_classes_is_imported(name: str) -> None:
    text = Path(model_zoo.get_config_file(name)).read_text()
    assert len(re.findall(r"num_classes = .*\b_num_classes$", text, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("file", "name", "head"),
    [
        ("upernet", "model", "sem_seg_head.main"),
        ("semantic_fpn", "model", "sem_seg_head"),
        ("mask2former", "base", "head.transformer_decoder"),
    ],
)
def test_models_do_not_define_their_number_of_classes(file: str, name: str, head: str) -> None:
    model = model_zoo.get_config(f"common/models/{file}")[name]
    assert OmegaConf.is_missing(OmegaConf.select(model, head), "num_classes")


def test_the_weights_follow_the_name(name: str, cfg: DictConfig) -> None:
    pretraining = re.search(r"_(tiny|small|base|large|giant|huge_plus|7b)_([a-z0-9]+)_\d", name)[2]
    file_name = cfg.train.vit_checkpoint.rsplit("/", 1)[-1].lower()
    marks = {"augreg": "_16-i21k", "uniperceiver": "uni-perceiver", "beit": "beit_"}
    assert marks.get(pretraining, pretraining) in file_name
