"""Pictures of training batches and of predictions."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image

from vit_adapter.drawing import (
    channels_as_rgb,
    draw_prediction,
    draw_targets,
    montage,
    save_picture,
)

GREY = 100


@pytest.fixture
def instances() -> Instances:
    """One object in the left half of an image of 32 x 64 pixels."""
    mask = torch.zeros(1, 32, 64, dtype=torch.bool)
    mask[:, :, :32] = True
    return Instances(
        (32, 64),
        gt_boxes=Boxes(torch.tensor([[0.0, 0.0, 32.0, 32.0]])),
        gt_classes=torch.tensor([1]),
        gt_masks=BitMasks(mask),
    )


def changed(picture: Image.Image) -> np.ndarray:
    """(H, W): which pixels of an image that was grey have been drawn on."""
    return (np.abs(np.asarray(picture).astype(int) - GREY) > 8).any(axis=-1)


def image(dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.full((3, 32, 64), GREY, dtype=dtype)


def test_draws_masks_with_class_names(instances: Instances) -> None:
    metadata = Metadata(thing_classes=["cat", "dog"])
    picture = draw_targets({"image": image(), "instances": instances}, metadata, "BGR")
    assert picture.size == (640, 320)
    where = changed(picture)
    assert where[:, 20:300].mean() > 0.9
    assert where[:, 340:].mean() < 0.05
    others = Metadata(thing_classes=["cat", "horse"])
    other = draw_targets({"image": image(), "instances": instances}, others, "BGR")
    assert other.tobytes() != picture.tobytes()  # only the name differs


@pytest.mark.parametrize("missing", ["gt_boxes", "gt_masks"])
def test_boxes_or_masks_may_be_missing(instances: Instances, missing: str) -> None:
    instances.remove(missing)
    metadata = Metadata(thing_classes=["cat", "dog"])
    picture = draw_targets({"image": image(), "instances": instances}, metadata, "RGB")
    assert changed(picture).any()


def test_draws_semantic_labels_in_the_palette() -> None:
    labels = torch.full((32, 64), 255)
    labels[:, :32] = 1
    metadata = Metadata(stuff_classes=["road", "sky"], stuff_colors=[(0, 0, 0), (250, 0, 0)])
    picture = draw_targets({"image": image(torch.float32), "sem_seg": labels}, metadata, "RGB")
    pixels = np.asarray(picture)
    assert pixels[300, 20, 0] > GREY + 50 > pixels[300, 20, 1]
    assert not changed(picture)[:, 340:].any()  # 255 stands for no class


def test_colours_follow_the_format_of_the_image(instances: Instances) -> None:
    red = torch.zeros(3, 32, 64, dtype=torch.uint8)
    red[2] = 250
    empty = instances[torch.zeros(1, dtype=torch.bool)]
    metadata = Metadata(thing_classes=["cat", "dog"])
    pixels = np.asarray(draw_targets({"image": red, "instances": empty}, metadata, "BGR"))
    assert pixels[10, 10].tolist() == [250, 0, 0]


def test_montage_has_a_cell_for_each_picture(tmp_path) -> None:
    pictures = [Image.new("RGB", (10, 20), colour) for colour in ("red", "lime", "blue")]
    sheet = montage(pictures, gap=2)
    assert sheet.size == (22, 42)
    assert sheet.getpixel((0, 22)) == (0, 0, 255)
    assert sheet.getpixel((12, 22)) == (255, 255, 255)  # the fourth cell is empty
    save_picture(sheet, tmp_path / "new" / "sheet.png")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_a_picture_that_is_too_large_for_jpeg(tmp_path) -> None:
    wide = Image.new("RGB", (65_501, 1))
    with pytest.raises(ValueError, match=r"wide.jpg cannot be written: .* 65500 .* 65501 x 1 "):
        save_picture(wide, tmp_path / "wide.jpg")
    save_picture(wide.crop((0, 0, 65_500, 1)), tmp_path / "less.jpg")
    save_picture(wide, tmp_path / "wide.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["less.jpg", "wide.png"]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_channels_fill_the_range(channels: int) -> None:
    ramp = np.linspace(0, 1, 200, dtype=np.float32).reshape(10, 20)
    scales = np.array([1000, 1, 60000, 7, 7], np.float32)[:channels]
    shown = channels_as_rgb(ramp[..., None] * scales - 3)
    assert shown.dtype == np.uint8 and shown.shape == (10, 20, 3)
    for colour in np.moveaxis(shown, 2, 0):
        assert (np.diff(colour.ravel().astype(int)) >= 0).all()
        assert (colour.min(), colour.max()) == (0, 255)
    if channels == 5:  # the last ones are not shown
        assert np.array_equal(shown, channels_as_rgb((ramp[..., None] * scales - 3)[..., :3]))


@pytest.mark.parametrize("value", [0.0, 1e6, np.nan, np.inf])
def test_images_without_contrast_can_be_shown(value: float) -> None:
    assert channels_as_rgb(np.full((4, 4, 2), value, np.float32)).max() == 0


def test_targets_and_predictions_of_five_channels(instances: Instances) -> None:
    metadata = Metadata(thing_classes=["cat", "dog"])
    image = torch.rand(5, 32, 64) * 4000
    picture = draw_targets({"image": image, "instances": instances}, metadata, 5)
    assert picture.size == (640, 320)
    fields = dict(pred_boxes=instances.gt_boxes, scores=torch.ones(1))
    found = Instances((32, 64), **fields, pred_classes=instances.gt_classes)
    drawn, count = draw_prediction(
        image.permute(1, 2, 0).numpy(), {"instances": found}, metadata, 0.5
    )
    assert drawn.size == (640, 320) and count == 1


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_classes_of_pixels_on_images_of_any_channels(channels: int) -> None:
    metadata = Metadata(stuff_classes=["road", "sky"], stuff_colors=[(0, 0, 0), (250, 0, 0)])
    image = np.random.default_rng(0).uniform(0, 4000, (32, 64, channels)).astype(np.float32)
    scores = torch.zeros(2, 32, 64)
    scores[1, :, :32] = 1
    drawn, count = draw_prediction(image, {"sem_seg": scores}, metadata, 0.5)
    shown = channels_as_rgb(image)[:, :, ::-1]
    expected, _ = draw_prediction(shown, {"sem_seg": scores}, metadata, 0.5)
    assert drawn.tobytes() == expected.tobytes()
    assert count == 2
