"""The semantic branch of the hybrid task cascade: sizes, labels, and what it refuses."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from vit_adapter.detection.htc import FusedSemanticHead, SemanticFusion

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


def make(channels: int = 4, num_classes: int = 5, **options: int) -> FusedSemanticHead:
    shapes = {name: ShapeSpec(channels=channels, stride=s) for name, s in STRIDES.items()}
    return FusedSemanticHead(
        input_shape=shapes, num_classes=num_classes, conv_dim=channels, **options
    )


def test_has_the_parameters_of_the_published_models() -> None:
    with torch.device("meta"):
        head = make(256, num_classes=183)
    assert sum(param.numel() for param in head.parameters()) == 2_802_103


def test_sizes_are_those_of_the_fusion_stride() -> None:
    maps = {name: torch.randn(2, 4, -(-96 // s), -(-160 // s)) for name, s in STRIDES.items()}
    scores, embedding = make()(maps)
    assert scores.shape == (2, 5, 12, 20) and embedding.shape == (2, 4, 12, 20)
    assert embedding.min() == 0  # a ReLU
    scores, _ = make(fusion_stride=16)(maps)
    assert scores.shape == (2, 5, 6, 10)


def test_ignored_pixels_count_in_the_mean() -> None:
    scores = torch.randn(1, 5, 2, 2)
    labels = torch.tensor([[[0, 255], [255, 255]]])
    (loss,) = make(loss_weight=0.5).losses(scores, labels).values()
    expected = -scores[0, :, 0, 0].log_softmax(0)[0] / 4 * 0.5
    torch.testing.assert_close(loss, expected)
    nothing = torch.full((1, 2, 2), 255)
    assert make().losses(scores, nothing)["loss_sem_seg"] == 0


def test_the_first_pixel_of_each_cell_counts() -> None:
    scores, labels = torch.randn(2, 5, 3, 4), torch.randint(5, (2, 3, 4))
    full = torch.full((2, 24, 32), 255)
    full[:, ::8, ::8] = labels
    assert make().losses(scores, full) == make().losses(scores, labels)


@pytest.mark.parametrize("size", [(17, 16), (16, 24), (1, 1)])
def test_refuses_labels_of_another_size(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="same multiple; pad the labels"):
        make().losses(torch.randn(1, 5, 2, 2), torch.zeros(1, *size, dtype=torch.long))


def test_refuses_a_stride_that_no_level_has() -> None:
    with pytest.raises(ValueError, match=r"one of \[4, 8, 16, 32, 64\], got 12"):
        make(fusion_stride=12)


def test_fusion_adds_the_embedding_inside_each_box() -> None:
    fusion = SemanticFusion(pooler=ROIPooler(14, [1 / 8], 0, "ROIAlignV2"))
    embedding = torch.stack([torch.full((3, 8, 8), 2.0), torch.full((3, 8, 8), 5.0)])
    boxes = [Boxes(torch.tensor([[8.0, 8, 40, 40]])), Boxes(torch.tensor([[4.0, 4, 60, 30]]))]
    for side in (7, 14):  # of the box and the mask branch
        fused = fusion(torch.ones(2, 3, side, side), embedding, boxes)
        assert fused.shape == (2, 3, side, side)
        torch.testing.assert_close(fused[:, 0, 0, 0], torch.tensor([3.0, 6.0]))
    none = [Boxes(torch.zeros(0, 4))] * 2
    assert fusion(torch.ones(0, 3, 7, 7), embedding, none).shape == (0, 3, 7, 7)
