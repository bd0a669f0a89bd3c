"""Each moment of a call belongs to one component."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vit_adapter import PlainViT, ViTAdapter
from vit_adapter.benchmark import components

CPU = torch.device("cpu")


class Clock:
    """A clock that only advances when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def pass_by(self, seconds: float) -> Callable[..., None]:
        """Return a hook that lets some time pass."""

        def advance(*_: object) -> None:
            self.now += seconds

        return advance


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(components.time, "perf_counter", lambda: clock.now)
    return clock


class Model(nn.Module):
    """An adapter inside a neck, and a head that runs it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        vit = PlainViT(img_size=32, embed_dim=12, depth=2, num_heads=2)
        adapter = ViTAdapter(
            vit, interaction_indexes=[(0, 0), (1, 1)], conv_inplane=4, deform_num_heads=2, norm="BN"
        )
        self.backbone = nn.Sequential(adapter)
        self.head = nn.Identity()
        vit.patch_embed.register_forward_hook(clock.pass_by(0.5))
        for block in vit.blocks:
            block.register_forward_hook(clock.pass_by(1))
        adapter.spm.stem.register_forward_hook(clock.pass_by(4))
        for interaction in adapter.interactions:
            interaction.extractor.register_forward_hook(clock.pass_by(8))
        adapter.norm1.register_forward_hook(clock.pass_by(32))
        self.backbone.register_forward_pre_hook(clock.pass_by(64))
        self.head.register_forward_hook(clock.pass_by(128))

    def forward(self, images: Tensor) -> Tensor:
        self.clock.pass_by(256)()
        outputs = self.head(self.backbone(images))
        self.clock.pass_by(512)()
        return outputs


def test_inner_components_do_not_count_for_outer_ones(clock: Clock) -> None:
    model = Model(clock).eval()
    images = torch.randn(1, 3, 32, 32)
    times = components.component_times(model, lambda: model(images), CPU)
    # Hooks of the test were registered first: what passes at the end of a part is its own.
    assert times == {
        "input": 1000 * (256 + 64),
        "ViT": 1000 * 2.5,
        "spatial prior": 1000 * 4,
        "interactions": 1000 * 16,
        "pyramid": 1000 * 32,
        "neck": 0.0,
        "head": 1000 * 128,
        "post-processing": 1000 * 512,
    }


def test_the_model_is_left_as_it_was(clock: Clock) -> None:
    model = Model(clock).eval()
    vit = model.backbone[0].vit

    def state() -> list[tuple[int, int, set[str]]]:
        return [
            (len(part._forward_hooks), len(part._forward_pre_hooks), set(vars(part)))
            for part in model.modules()
        ]

    def fail() -> None:
        model(torch.randn(1, 3, 32, 32))
        raise RuntimeError("a failure")

    model(torch.randn(1, 3, 32, 32))
    before = state()
    with pytest.raises(RuntimeError, match="a failure"):
        components.component_times(model, fail, CPU)
    assert state() == before
    assert "forward_blocks" not in vars(vit)
