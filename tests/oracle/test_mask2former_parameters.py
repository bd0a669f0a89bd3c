"""Parameters of Mask2Former against the published counts (arXiv 2205.08534)."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L, instantiate
from omegaconf import DictConfig

from vit_adapter import ViTAdapter, model_zoo
from vit_adapter.backbone import BEiT

# width, depth, heads and deformable heads
BASE, LARGE = (768, 12, 12), (1024, 24, 16)


def beit_adapter(size: tuple[int, int, int], img_size: int) -> DictConfig:
    """The adapter of the original's segmentors on BEiT, whose tables depend on the image size."""
    dim, depth, heads = size
    quarter = depth // 4
    return L(ViTAdapter)(
        vit=L(BEiT)(img_size=img_size, embed_dim=dim, depth=depth, num_heads=heads),
        interaction_indexes=[[i * quarter, (i + 1) * quarter - 1] for i in range(4)],
        deform_num_heads=heads,
        deform_ratio=0.5,
        vit_feature_fusion="per_interaction",
    )


@pytest.mark.parametrize(
    ("name", "backbone", "num_queries", "num_classes", "millions"),
    [
        ("base", beit_adapter(BASE, 480), 100, 59, 120),
        ("base", beit_adapter(BASE, 512), 100, 171, 120),
        ("large", beit_adapter(LARGE, 640), 100, 150, 568),
        ("large", beit_adapter(LARGE, 896), 200, 150, 571),
        ("large", beit_adapter(LARGE, 896), 200, 171, 571),
    ],
)
def test_published_counts(
    name: str, backbone: DictConfig, num_queries: int, num_classes: int, millions: int
) -> None:
    assert round(count(name, backbone, num_queries, num_classes) / 1e6) == millions


def test_the_originals_model_has_as_many() -> None:
    file = Path(__file__).parent / "golden" / "optim_mask2former_beit_large_640.json"
    expected = json.loads(file.read_text())["total_params"]
    assert count("large", beit_adapter(LARGE, 640), 100, 150) == expected


def count(name: str, backbone: DictConfig, num_queries: int, num_classes: int) -> int:
    """Parameters of a size of the configs."""
    model = model_zoo.get_config("common/models/mask2former")[name]
    model.backbone = backbone
    model.head.transformer_decoder.num_queries = num_queries
    model.head.transformer_decoder.num_classes = num_classes
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in instantiate(model).parameters())
