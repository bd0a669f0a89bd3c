"""Models make every tensor on their own device: tested for CUDA without a GPU.

Fake tensors have a size, a dtype and a device but no numbers. For them, too, an operation on
tensors of two devices fails. So this finds a tensor that a model on CUDA makes on the CPU, and one
that `Module.to` does not move. Backward passes would need a device.
"""

from collections.abc import Callable, Iterable

import pytest
import torch
from detectron2.layers import ShapeSpec
from fake_cuda import move_to_fake_cuda
from torch import Tensor, nn

from vit_adapter import BEiT, PlainViT, TimmViT, UniPerceiver, ViTAdapter
from vit_adapter.layers.matching import Matches
from vit_adapter.mask2former import (
    HungarianMatcher,
    Mask2FormerHead,
    MaskedTransformerDecoder,
    MSDeformAttnPixelDecoder,
    SetCriterion,
)
from vit_adapter.mask2former.targets import MaskTargets
from vit_adapter.segmentation import FCNHead, HeadWithAuxiliary, SemanticFPNHead, UPerNetHead

DIM = 32


def make_timm_vit(name: str, **changes: object) -> TimmViT:
    heads = {"num_heads": 2}
    return TimmViT(name=name, embed_dim=DIM, depth=2, img_size=64, model_args=heads, **changes)


SIZES = {"embed_dim": DIM, "depth": 2, "num_heads": 2, "img_size": 64}
TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: PlainViT(**SIZES, window_sizes=[3, 0], residual_indexes=[0]),
    "beit": lambda: BEiT(**SIZES),
    "windowed beit": lambda: BEiT(**SIZES, class_token=False, window_sizes=[3, 0]),
    "uni-perceiver": lambda: UniPerceiver(**SIZES, window_sizes=[3, 0]),
    "rotary": lambda: make_timm_vit("eva02_tiny_patch14_224", window_sizes=[3, 0]),
    "relative": lambda: make_timm_vit("beit_base_patch16_224"),
}
SHAPES = {
    name: ShapeSpec(channels=DIM, stride=stride)
    for name, stride in (("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32))
}
CLASSES = 5


def check_all_on_cuda(tensors: Iterable[Tensor]) -> None:
    assert {tensor.device.type for tensor in tensors} == {"cuda"}


def make_features(batch: int) -> dict[str, Tensor]:
    """A backbone's outputs for images of 64 x 96 pixels."""
    return {
        name: torch.randn(batch, DIM, 64 // shape.stride, 96 // shape.stride, device="cuda")
        for name, shape in SHAPES.items()
    }


def make_adapter(trunk: str, mode: str) -> ViTAdapter:
    groups = [(0, 0), (1, 1)]
    return ViTAdapter(
        TRUNKS[trunk](), mode=mode, interaction_indexes=groups, conv_inplane=4, deform_num_heads=2
    )


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(
    ("trunk", "mode"),
    [(trunk, "full") for trunk in TRUNKS] + [("plain", "light"), ("windowed beit", "frozen")],
)
def test_backbones(trunk, mode, fake_cuda):
    adapter = make_adapter(trunk, mode)
    with fake_cuda:
        move_to_fake_cuda(adapter)
        for batch, training in ((2, True), (1, False)):
            images = torch.randn(batch, 3, 70, 96, device="cuda")
            autocast = torch.autocast("cuda", torch.bfloat16, enabled=training)
            with torch.set_grad_enabled(training), autocast:
                assert torch.is_autocast_enabled("cuda") == training
                outputs = adapter.train(training)(images)
            check_all_on_cuda(outputs.values())


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("trunk", TRUNKS)
def test_converted_backbones(trunk, fake_cuda):
    adapter = make_adapter(trunk, "full").eval().bfloat16()
    with fake_cuda, torch.no_grad():
        images = torch.randn(1, 3, 70, 96, device="cuda")
        outputs = move_to_fake_cuda(adapter)(images).values()
    check_all_on_cuda(outputs)
    assert {features.dtype for features in outputs} == {torch.bfloat16}


def make_head(kind: str) -> nn.Module:
    common = {"num_classes": CLASSES, "norm": "SyncBN"}
    if kind == "semantic_fpn":
        return SemanticFPNHead(SHAPES, conv_dims=DIM, **common)
    return HeadWithAuxiliary(
        main=UPerNetHead(SHAPES, channels=16, **common),
        auxiliary=FCNHead({"res4": SHAPES["res4"]}, channels=16, **common),
    )


@pytest.mark.parametrize("kind", ["upernet", "semantic_fpn"])
def test_pixel_heads(kind, fake_cuda):
    head = make_head(kind)
    with fake_cuda:
        move_to_fake_cuda(head)
        targets = torch.zeros(2, 64, 96, dtype=torch.int64, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            _, losses = head.train()(make_features(2), targets)
        check_all_on_cuda(losses.values())
        with torch.no_grad():
            scores, _ = head.eval()(make_features(1))
        check_all_on_cuda([scores])


def make_mask2former_head() -> Mask2FormerHead:
    sizes = {"embed_dim": DIM, "mask_dim": DIM, "num_heads": 4, "ffn_dim": DIM, "num_layers": 3}
    return Mask2FormerHead(
        pixel_decoder=MSDeformAttnPixelDecoder(SHAPES, **sizes),
        transformer_decoder=MaskedTransformerDecoder(**sizes, num_classes=CLASSES, num_queries=6),
    )


def test_mask2former(fake_cuda, monkeypatch):
    head = make_mask2former_head()
    matcher = HungarianMatcher(num_points=50)
    criterion = SetCriterion(num_classes=CLASSES, matcher=matcher, num_points=50)
    with fake_cuda:
        move_to_fake_cuda(head)
        move_to_fake_cuda(criterion)
        targets = [
            MaskTargets(
                torch.zeros(2, dtype=torch.int64, device="cuda"),
                torch.zeros(2, 64, 96, dtype=torch.bool, device="cuda"),
            )
        ] * 2
        with torch.autocast("cuda", torch.float16):
            predictions = head(make_features(2), intermediate=True)
            check_all_on_cuda(matcher._costs_of_image(predictions, 1, targets[1]))
            # The assignment is computed on the CPU and needs real numbers.
            pairs = torch.zeros(len(predictions), 4, dtype=torch.int64, device="cuda")
            monkeypatch.setattr(HungarianMatcher, "forward", lambda *_: Matches(pairs, pairs))
            losses = criterion(predictions, targets)
        check_all_on_cuda(losses.values())


def test_converted_mask2former(fake_cuda):
    head = make_mask2former_head().eval().bfloat16()
    with fake_cuda, torch.no_grad():
        features = {name: maps.bfloat16() for name, maps in make_features(1).items()}
        outputs = move_to_fake_cuda(head)(features)[-1]
    check_all_on_cuda(outputs)


class _Careless(nn.Module):
    """Adds a tensor on the CPU, which it either keeps or makes."""

    def __init__(self, *, kept: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.table = torch.ones(3) if kept else None

    def forward(self, features: Tensor) -> Tensor:
        table = torch.ones(3) if self.table is None else self.table
        return features * self.weight + table


@pytest.mark.parametrize("kept", [False, True])
def test_tensors_on_the_cpu_are_found(kept, fake_cuda):
    module = _Careless(kept=kept)
    with fake_cuda, pytest.raises(Exception, match="two devices|FakeTensor"):
        move_to_fake_cuda(module)(torch.ones(2, 3, device="cuda"))
