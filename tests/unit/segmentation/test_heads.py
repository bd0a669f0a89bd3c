"""The heads in Detectron2's SemanticSegmentor, and the arguments that they refuse."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, SemanticSegmentor, build_sem_seg_head
from torch import Tensor, nn

from vit_adapter.segmentation import (
    FCNHead,
    HeadWithAuxiliary,
    SemanticFPNHead,
    UPerNetHead,
    pixel_cross_entropy,
)

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
SHAPES = {
    name: ShapeSpec(channels=8 * index, stride=stride)
    for index, (name, stride) in enumerate(STRIDES.items(), start=1)
}
CLASSES = 5


def make(kind: str, **changes: object) -> nn.Module:
    """A small head by name, without a norm so that any batch works."""
    if kind == "auxiliary":
        return HeadWithAuxiliary(main=make("upernet", **changes), auxiliary=make("fcn", **changes))
    common = {"num_classes": CLASSES, "norm": "", **changes}
    if kind == "upernet":
        return UPerNetHead(SHAPES, channels=16, **common)
    if kind == "fcn":
        return FCNHead({"res4": SHAPES["res4"]}, channels=16, **common)
    shapes = {name: ShapeSpec(channels=8, stride=shape.stride) for name, shape in SHAPES.items()}
    return SemanticFPNHead(shapes, conv_dims=16, **common)


KINDS = ["upernet", "fcn", "semantic_fpn", "auxiliary"]


class Pyramid(Backbone):
    """Strided convolutions in place of a backbone."""

    size_divisibility = 32
    padding_constraints = {"size_divisibility": 32}

    def __init__(self, *, same_width: bool) -> None:
        super().__init__()
        self.levels = nn.ModuleDict(
            {
                name: nn.Conv2d(3, 8 if same_width else shape.channels, 3, shape.stride, padding=1)
                for name, shape in SHAPES.items()
            }
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: conv(images) for name, conv in self.levels.items()}


def make_model(kind: str, **changes: object) -> SemanticSegmentor:
    return SemanticSegmentor(
        backbone=Pyramid(same_width=kind == "semantic_fpn"),
        sem_seg_head=make(kind, **changes),
        pixel_mean=[120.0] * 3,
        pixel_std=[60.0] * 3,
    )


def make_inputs() -> list[dict]:
    sizes = [(64, 90), (50, 64)]
    return [
        {
            "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
            "sem_seg": torch.randint(0, CLASSES, size),
            "height": 70,
            "width": 33,
        }
        for size in sizes
    ]


def make_features(kind: str) -> dict[str, Tensor]:
    """Features of two images of 64 x 96 pixels."""
    width = {name: 8 if kind == "semantic_fpn" else s.channels for name, s in SHAPES.items()}
    return {name: torch.randn(2, width[name], 64 // s, 96 // s) for name, s in STRIDES.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_have_the_size_of_the_original_image(kind: str) -> None:
    model = make_model(kind).eval()
    with torch.no_grad():
        outputs = model(make_inputs())
    assert [output["sem_seg"].shape for output in outputs] == [(CLASSES, 70, 33)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_training_gives_losses_and_every_parameter_a_gradient(kind: str) -> None:
    model = make_model(kind).train()
    losses = model(make_inputs())
    names = ["loss_sem_seg", "loss_sem_seg_aux"] if kind == "auxiliary" else ["loss_sem_seg"]
    assert sorted(losses) == names
    sum(losses.values()).backward()
    head = model.sem_seg_head
    assert [name for name, param in head.named_parameters() if param.grad is None] == []
    gradient = head.main.conv_seg.weight.grad if kind == "auxiliary" else None
    assert gradient is None or gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", ["upernet", "fcn", "semantic_fpn"])
@pytest.mark.parametrize("average", ["all", "valid"])
def test_loss_equals_that_of_the_scores(kind: str, average: str) -> None:
    head = make(kind, dropout=0.0, loss_average=average, loss_weight=0.25)
    features = make_features(kind)
    targets = torch.randint(0, CLASSES, (2, 64, 96))
    targets[0, :40] = 255
    scores, nothing = head.eval()(features)
    assert scores.shape == (2, CLASSES, 64, 96) and nothing == {}
    none, losses = head.train()(features, targets)
    assert none is None
    expected = 0.25 * pixel_cross_entropy(scores, targets, average=average)
    assert losses["loss_sem_seg"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["upernet", "fcn", "semantic_fpn"])
def test_dropout_is_active_only_in_training(kind: str) -> None:
    features = make_features(kind)
    targets = torch.zeros(2, 64, 96, dtype=torch.long)
    head = make(kind, dropout=0.5)
    losses = {head(features, targets)[1]["loss_sem_seg"].item() for _ in range(4)}
    assert len(losses) == 4
    head.eval()
    first, second = (head(features)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_any_label_gives_loss_zero(kind: str) -> None:
    model = make_model(kind, loss_average="valid").train()
    inputs = make_inputs()
    for record in inputs:
        record["sem_seg"].fill_(255)
    assert sum(model(inputs).values()).item() == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_labels_is_refused(kind: str) -> None:
    inputs = [{"image": record["image"]} for record in make_inputs()]
    with pytest.raises(ValueError, match='no "sem_seg"; use a mapper'):
        make_model(kind).train()(inputs)


def test_auxiliary_head_is_used_only_in_training() -> None:
    head = make("auxiliary", dropout=0.0)
    features = make_features("auxiliary")
    targets = torch.randint(0, CLASSES, (2, 64, 96))
    _, losses = head(features, targets)
    assert torch.equal(losses["loss_sem_seg"], head.main(features, targets)[1]["loss_sem_seg"])
    auxiliary = head.auxiliary(features, targets)[1]["loss_sem_seg"]
    assert torch.equal(losses["loss_sem_seg_aux"], auxiliary)
    scores, _ = head.eval()(features)
    assert torch.equal(scores, head.main(features)[0])


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "GN", ""])
def test_heads_use_the_named_norm(norm: str) -> None:
    shapes = {name: ShapeSpec(channels=32, stride=s) for name, s in STRIDES.items()}
    heads = [
        UPerNetHead(shapes, channels=32, num_classes=2, norm=norm),
        FCNHead({"res4": shapes["res4"]}, channels=32, num_classes=2, norm=norm),
        SemanticFPNHead(shapes, conv_dims=32, num_classes=2, norm=norm),
    ]
    expected = {"BN": "BatchNorm2d", "SyncBN": "SyncBatchNorm", "GN": "GroupNorm"}.get(norm)
    for head in heads:
        kinds = {type(m).__name__ for m in head.modules() if "Norm" in type(m).__name__}
        assert kinds == ({expected} if expected else set())


def test_yacs_configs_build_the_heads() -> None:
    cfg = get_cfg()
    node = cfg.MODEL.SEM_SEG_HEAD
    node.IN_FEATURES = list(STRIDES)
    node.NUM_CLASSES, node.CONVS_DIM, node.NORM = CLASSES, 32, "GN"
    node.NAME = "HeadWithAuxiliary"
    head = build_sem_seg_head(cfg, SHAPES)
    assert isinstance(head.main, UPerNetHead) and isinstance(head.auxiliary, FCNHead)
    assert head.main.conv_seg.weight.shape == (CLASSES, 32, 1, 1)
    assert head.auxiliary.convs[0].weight.shape == (256, SHAPES["res4"].channels, 3, 3)
    assert (head.main.loss_weight, head.auxiliary.loss_weight) == (1.0, 0.4)
    node.NAME = "SemanticFPNHead"
    same = {name: ShapeSpec(channels=32, stride=s) for name, s in STRIDES.items()}
    assert isinstance(build_sem_seg_head(cfg, same), SemanticFPNHead)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: UPerNetHead({}, channels=8, num_classes=2), "input_shape is empty"),
        (lambda: make("upernet", num_classes=0), "num_classes must be >= 1"),
        (lambda: make("upernet", dropout=1.0), r"dropout in \[0, 1\), got 5 and 1.0"),
        (lambda: make("upernet", norm="XN"), "unknown norm 'XN'"),
        (lambda: make("semantic_fpn", norm="XN"), "unknown norm 'XN'"),
        (lambda: make("upernet", loss_average="mean"), "loss_average must be one of"),
        (lambda: make("semantic_fpn", loss_average="mean"), "loss_average must be one of"),
        (lambda: FCNHead(SHAPES, num_classes=2), "one input .*'res2', 'res3'"),
        (lambda: make("fcn", num_convs=0), r"num_convs >= 1, got the inputs \['res4'\] and 0"),
        (
            lambda: HeadWithAuxiliary(main=make("upernet"), auxiliary=make("fcn", ignore_value=0)),
            "same ignore_value, got 255 and 0",
        ),
    ],
)
def test_arguments_that_do_not_fit(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_initial_scores_favour_no_class() -> None:
    for kind in ("upernet", "fcn", "semantic_fpn"):
        model = make_model(kind).eval()
        with torch.no_grad():
            probabilities = model(make_inputs())[0]["sem_seg"].softmax(0)
        assert (probabilities - 1 / CLASSES).abs().max() < 0.1
