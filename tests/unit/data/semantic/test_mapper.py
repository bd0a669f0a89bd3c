"""From the record of an image with labels to the input of a model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_train_loader,
    transforms as T,
)
from detectron2.utils.env import seed_all_rng
from PIL import Image

from vit_adapter.data import SemanticMapper, semantic_train

MEAN = [123.675, 116.28, 103.53]
STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
NAME = "semantic_mapper_test"


@pytest.fixture(autouse=True)
def _three_classes():
    DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).set(stuff_classes=["a", "b", "c"])
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def make_mapper(augmentations: list = (), **changes: object) -> SemanticMapper:
    settings = dict(is_train=True, image_format="RGB", dataset_names=NAME)
    return SemanticMapper(augmentations=list(augmentations), **{**settings, **changes})


def write(folder: Path, name: str = "a", labels: np.ndarray | None = None) -> dict[str, str]:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    labels = np.arange(600, dtype=np.uint8).reshape(20, 30) % 3 if labels is None else labels
    Image.fromarray(image).save(folder / f"{name}_image.png")
    Image.fromarray(labels).save(folder / f"{name}.png")
    return {
        "file_name": str(folder / f"{name}_image.png"),
        "sem_seg_file_name": str(folder / f"{name}.png"),
    }


def test_training_returns_image_and_labels(tmp_path: Path) -> None:
    record = write(tmp_path)
    before = dict(record)
    mapped = make_mapper()(record)
    assert record == before
    assert set(mapped) == {"file_name", "sem_seg_file_name", "height", "width", "image", "sem_seg"}
    assert (mapped["height"], mapped["width"]) == (20, 30)
    pixels = np.asarray(Image.open(record["file_name"]))
    assert np.array_equal(mapped["image"].numpy(), pixels.transpose(2, 0, 1))
    assert mapped["image"].dtype == torch.uint8 and mapped["sem_seg"].dtype == torch.int64
    labels = np.asarray(Image.open(record["sem_seg_file_name"]))
    assert np.array_equal(mapped["sem_seg"].numpy(), labels)


def test_testing_reads_no_labels_and_keeps_the_original_size(tmp_path: Path) -> None:
    record = write(tmp_path)
    Path(record["sem_seg_file_name"]).unlink()
    mapped = make_mapper([T.Resize((32, 64))], is_train=False, pad_size=[99, 99])(record)
    assert "sem_seg" not in mapped and mapped["image"].shape == (3, 32, 64)
    assert (mapped["height"], mapped["width"]) == (20, 30)


def test_bgr(tmp_path: Path) -> None:
    record = write(tmp_path)
    rgb, bgr = (make_mapper(image_format=order)(record)["image"] for order in ("RGB", "BGR"))
    assert torch.equal(rgb.flip(0), bgr)


def test_padding_is_zero_for_the_model_and_ignored_by_the_loss(tmp_path: Path) -> None:
    record = write(tmp_path)
    mapped = make_mapper(pad_size=[24, 36], pixel_mean=MEAN)(record)
    assert mapped["image"].shape == (3, 24, 36) and mapped["sem_seg"].shape == (24, 36)
    normalised = (mapped["image"] - torch.tensor(MEAN)[:, None, None]) / STD
    assert not normalised[:, 20:].any() and not normalised[:, :, 30:].any()
    plain = make_mapper()(record)
    assert torch.equal(mapped["image"][:, :20, :30], plain["image"].float())
    assert torch.equal(mapped["sem_seg"][:20, :30], plain["sem_seg"])
    assert (mapped["sem_seg"][20:] == 255).all() and (mapped["sem_seg"][:, 30:] == 255).all()


@pytest.mark.parametrize("pad_size", [None, [20, 30], [8, 8]])
def test_no_padding_if_none_is_needed(tmp_path: Path, pad_size: list[int] | None) -> None:
    mapped = make_mapper(pad_size=pad_size, pixel_mean=MEAN)(write(tmp_path))
    assert mapped["image"].shape == (3, 20, 30) and mapped["image"].dtype == torch.uint8


def test_a_crop_larger_than_the_image(tmp_path: Path) -> None:
    augmentations = semantic_train(scale=(30, 20), crop_size=(64, 64))
    mapper = make_mapper(augmentations, pad_size=[64, 64], pixel_mean=MEAN)
    record = write(tmp_path)
    np.random.seed(0)
    for _ in range(5):
        mapped = mapper(record)
        assert mapped["image"].shape == (3, 64, 64) and mapped["sem_seg"].shape == (64, 64)
        assert set(mapped["sem_seg"].unique().tolist()) <= {0, 1, 2, 255}


def test_an_image_without_pixels_that_count(tmp_path: Path) -> None:
    record = write(tmp_path, labels=np.full((20, 30), 255, np.uint8))
    augmentations = semantic_train(scale=(60, 40), crop_size=(16, 16))
    assert (make_mapper(augmentations)(record)["sem_seg"] == 255).all()


def test_the_ignored_label_of_the_data_set_becomes_255(tmp_path: Path) -> None:
    MetadataCatalog.get(NAME).ignore_label = 0
    labels = np.arange(600, dtype=np.uint8).reshape(20, 30) % 3
    record = write(tmp_path, labels=labels)
    mapped = make_mapper(pad_size=[24, 36], pixel_mean=MEAN)(record)["sem_seg"].numpy()
    assert np.array_equal(mapped[:20, :30], np.where(labels == 0, 255, labels))
    assert (mapped[20:] == 255).all() and (mapped[:, 30:] == 255).all()
    record = write(tmp_path, labels=np.full((20, 30), 255, np.uint8))
    with pytest.raises(ValueError, match=r"a\.png has the values 255 .* and 0 for pixels"):
        make_mapper()(record)


def test_data_sets_that_ignore_different_labels() -> None:
    other = f"{NAME}_other"
    DatasetCatalog.register(other, list)
    MetadataCatalog.get(other).set(stuff_classes=["a", "b", "c"], ignore_label=0)
    try:
        with pytest.raises(ValueError, match=f"the same ignore_label, got .*'{NAME}': 255"):
            make_mapper(dataset_names=[NAME, other])
    finally:
        DatasetCatalog.remove(other)
        MetadataCatalog.remove(other)


@pytest.mark.parametrize("is_train", [True, False])
def test_images_whose_labels_ignore_exif_are_read_as_stored(tmp_path: Path, is_train: bool) -> None:
    record = write(tmp_path)
    pixels = np.asarray(Image.open(record["file_name"]))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(record["file_name"], exif=exif)
    mapped = make_mapper(is_train=is_train)(record)
    assert np.array_equal(mapped["image"].numpy(), pixels.transpose(2, 0, 1))
    assert (mapped["height"], mapped["width"]) == (20, 30)
    Image.fromarray(np.zeros((30, 20), np.uint8)).save(record["sem_seg_file_name"])
    assert make_mapper(is_train=is_train)(record)["image"].shape == (3, 30, 20)


def test_labels_without_class_are_named(tmp_path: Path) -> None:
    record = write(tmp_path, labels=np.full((20, 30), 3, np.uint8))
    with pytest.raises(ValueError, match=r"a\.png has the values 3 in 600 pixels.* 3 classes"):
        make_mapper()(record)


def test_different_sizes_are_named(tmp_path: Path) -> None:
    record = write(tmp_path, labels=np.zeros((20, 29), np.uint8))
    with pytest.raises(ValueError, match=r"a_image\.png has 30 x 20 .*a\.png has 29 x 20"):
        make_mapper()(record)


def test_unreadable_labels_are_named(tmp_path: Path) -> None:
    record = write(tmp_path)
    path = Path(record["sem_seg_file_name"])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        make_mapper()(record)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png does not exist"):
        make_mapper()(record)
    del record["sem_seg_file_name"]
    with pytest.raises(ValueError, match=r"a_image\.png has no 'sem_seg_file_name'"):
        make_mapper()(record)


def test_failing_augmentation_names_the_image(tmp_path: Path) -> None:
    class Failing(T.Augmentation):
        def get_transform(self, image: np.ndarray) -> None:
            raise ValueError("out of luck")

    with pytest.raises(ValueError, match=r"a_image\.png of 30 x 20 .* failed: out of luck"):
        make_mapper([Failing()])(write(tmp_path))


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="pad_size needs pixel_mean"):
        make_mapper(pad_size=[8, 8])
    with pytest.raises(ValueError, match="No data set is registered as 'absent'"):
        make_mapper(dataset_names=["absent"])
    MetadataCatalog.remove(NAME)
    MetadataCatalog.get(NAME).set(stuff_classes=[str(i) for i in range(256)])
    with pytest.raises(ValueError, match="256 classes, but at most 255"):
        make_mapper()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_equal_seeds_give_equal_batches(tmp_path: Path, num_workers: int) -> None:
    records = [write(tmp_path, name) for name in "abcd"]
    augmentations = semantic_train(scale=(60, 40), crop_size=(16, 16))
    runs = []
    for seed in (5, 5, 6):
        seed_all_rng(seed)
        loader = iter(
            build_detection_train_loader(
                records,
                mapper=make_mapper(augmentations),
                total_batch_size=2,
                aspect_ratio_grouping=False,
                num_workers=num_workers,
            )
        )
        batches = [next(loader) for _ in range(3)]
        runs.append(torch.stack([record["image"] for batch in batches for record in batch]))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert runs[0].unique(dim=0).shape[0] == 6  # all differ, because each worker has its own seed


def test_images_with_more_channels_keep_their_values_but_no_distorted_colours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = write(tmp_path)
    image = np.random.default_rng(0).integers(0, 60000, (20, 30, 4)).astype(np.uint16)
    record["file_name"] = str(tmp_path / "a_image.npy")
    np.save(record["file_name"], image)
    recipe = semantic_train(scale=(30, 20), crop_size=(20, 30), ratio_range=(1, 1))
    mean = [1000.0, 2.0, 3.0, 4.0]
    with caplog.at_level("INFO", "vit_adapter"):
        mapper = make_mapper(recipe, image_format=4, pad_size=[24, 30], pixel_mean=mean)
    assert "PhotometricDistortion is left out" in caplog.text
    mapped = mapper(record)
    pixels = mapped["image"].numpy().transpose(1, 2, 0)
    assert pixels.dtype == np.float32 and pixels.shape == (24, 30, 4)
    mirrored = not np.array_equal(pixels[:20], image)
    assert np.array_equal(pixels[:20, ::-1] if mirrored else pixels[:20], image)
    assert (pixels[20:] == mean).all()
    assert len(make_mapper(recipe).augmentations.augs) == len(mapper.augmentations.augs) + 1


def test_augmentations_for_rgb_are_refused_with_the_file(tmp_path: Path) -> None:
    record = write(tmp_path)
    record["file_name"] = str(tmp_path / "a_image.npy")
    np.save(record["file_name"], np.ones((20, 30, 5)))
    with pytest.raises(ValueError, match=r"a_image\.npy of 30 x 20 .* only works on RGB images"):
        make_mapper([T.RandomSaturation(0.5, 1.5)], image_format=5)(record)
