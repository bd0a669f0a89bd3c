"""An exported file in the place of a model, for evaluation."""

import pytest
import torch
from small_models import make_segmentor

from vit_adapter.config.errors import UsageError
from vit_adapter.export.evaluation import FileModel
from vit_adapter.export.models import exportable
from vit_adapter.export.shapes import ImageShapes


@torch.no_grad()
@pytest.mark.parametrize(
    "shapes",
    [
        ImageShapes(1, 64, 96, dynamic_size=True, dynamic_batch=True),
        ImageShapes(2, 64, 96),  # also the batch is filled up
    ],
)
def test_predicts_as_the_model(shapes: ImageShapes) -> None:
    model = make_segmentor()
    core = exportable(model)
    batches = []

    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        batches.append(tuple(images.shape))
        return core(images)

    image = (255 * torch.rand(3, 64, 90)).to(torch.uint8)
    inputs = {"image": image, "height": 32, "width": 45}
    (output,) = FileModel(core, run, shapes)([inputs])
    torch.testing.assert_close(output["sem_seg"], model([inputs])[0]["sem_seg"])
    assert batches == [(shapes.batch, 3, 64, 96)]


def test_images_that_do_not_fit_are_refused() -> None:
    core = exportable(make_segmentor())
    model = FileModel(core, core, ImageShapes(1, 64, 64))
    with pytest.raises(UsageError, match="65 x 64 pixels .* does not fit"):
        model([{"image": torch.zeros(3, 65, 64)}])
