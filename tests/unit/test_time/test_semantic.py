"""What sliding windows and multi-scale testing have in common."""

import pytest
import torch
from detectron2.export import TracingAdapter
from semantic_loops import (
    PositionalModel,
    random_image,
    resized,
    slow_multi_scale,
    slow_sliding_window,
)
from torch import nn

from vit_adapter.test_time import MultiScaleFlip, SlidingWindow


def test_both_wrappers_together() -> None:
    model = PositionalModel().eval()
    image = random_image(20, 30)
    windows = SlidingWindow(model, crop_size=[16, 16], stride=[10, 10])
    (output,) = MultiScaleFlip(windows, scales=[1.0, 1.5], flip=True, min_side=16)(
        [{"image": image, "height": 40, "width": 60}]
    )

    class Slow(nn.Module):
        def forward(self, batch: list[dict]) -> list[dict]:
            scores = slow_sliding_window(model, batch[0]["image"], [16, 16], [10, 10])
            return [{"sem_seg": resized(scores, (batch[0]["height"], batch[0]["width"]))}]

    expected = slow_multi_scale(Slow(), image, [(20, 30), (30, 45)], True, (40, 60))
    torch.testing.assert_close(output["sem_seg"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize(
    "wrapper",
    [
        SlidingWindow(PositionalModel().eval(), crop_size=[8, 8], stride=[5, 5]),
        MultiScaleFlip(PositionalModel().eval(), scales=[1.0, 1.5], flip=True),
    ],
)
def test_can_be_traced_for_one_size(wrapper: nn.Module) -> None:
    adapter = TracingAdapter(wrapper, [{"image": random_image(16, 24)}])
    traced = torch.jit.trace(adapter, (random_image(16, 24),), check_trace=False)
    image = random_image(16, 24)
    torch.testing.assert_close(traced(image), adapter(image))
    with pytest.raises(RuntimeError, match="unflatten: Provided sizes"):
        traced(random_image(24, 16))


def test_a_batch_is_a_list_of_images() -> None:
    model = PositionalModel().eval()
    batch = [{"image": random_image(20, 30)}, {"image": random_image(9, 14), "height": 3}]
    for wrapped in (
        SlidingWindow(model, crop_size=[8, 8], stride=[5, 5]),
        MultiScaleFlip(model, scales=[1.0, 2.0], flip=True),
    ):
        together = wrapped(batch)
        assert [output["sem_seg"].shape for output in together] == [(3, 20, 30), (3, 3, 14)]
        for inputs, output in zip(batch, together, strict=True):
            assert torch.equal(wrapped([inputs])[0]["sem_seg"], output["sem_seg"])


def test_mode_is_taken_over_from_the_model() -> None:
    for wrap in (
        lambda model: SlidingWindow(model, crop_size=[8, 8], stride=[8, 8]),
        lambda model: MultiScaleFlip(model, scales=[1.0], flip=False),
    ):
        assert not wrap(PositionalModel().eval()).training
        wrapped = wrap(PositionalModel().train())
        assert wrapped.training
        with pytest.raises(RuntimeError, match=r"training mode; call eval\(\)"):
            wrapped([{"image": random_image(8, 8)}])


@pytest.mark.parametrize(
    ("wrapper", "options", "message"),
    [
        (SlidingWindow, {"crop_size": [8], "stride": [4]}, r"height, width\) each, got \[8\]"),
        (SlidingWindow, {"crop_size": [8, 8], "stride": [9, 4]}, r"left out; got .*\[9, 4\]"),
        (SlidingWindow, {"crop_size": [8, 8], "stride": [4, 0]}, "stride must be between 1"),
        (
            SlidingWindow,
            {"crop_size": [8] * 2, "stride": [4] * 2, "pad_value": [1.0], "square_if_small": True},
            r"square_if_small and pad_value .* set pad_value to None, got \[1.0\]",
        ),
        (MultiScaleFlip, {"scales": [], "flip": True}, r"one or more numbers > 0, got \[\]"),
        (MultiScaleFlip, {"flip": True}, "exactly one of scales and short_sides .* scales None"),
        (MultiScaleFlip, {"scales": [1.0], "short_sides": [9], "flip": True}, "exactly one of"),
        (MultiScaleFlip, {"short_sides": [], "flip": True}, r"whole pixels >= 1, got \[\]"),
        (MultiScaleFlip, {"short_sides": [9.5], "flip": True}, r"whole pixels >= 1, got \[9.5\]"),
        (MultiScaleFlip, {"scales": [1.0, 0.0], "flip": True}, "numbers > 0"),
        (MultiScaleFlip, {"scales": [1], "flip": True, "min_side": 0}, "min_side must be >= 1"),
        (MultiScaleFlip, {"scales": [1], "flip": True, "size_divisor": 0}, "size_divisor must be"),
        (MultiScaleFlip, {"scales": [1], "flip": True, "limits": [8]}, r"limits must be .* \[8\]"),
    ],
)
def test_arguments_that_do_not_fit(wrapper: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrapper(PositionalModel(), **options)
