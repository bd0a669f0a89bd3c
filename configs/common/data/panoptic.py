"""Shared parts of the data configs for panoptic segmentation."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts

from vit_adapter.data import PanopticMapper, TrainLoader, large_scale_jitter, resize
from vit_adapter.evaluation import build_panoptic_evaluator

data = dict(
    # files in COCO's panoptic format with the folders of their segment maps and images; empty = the
    # data sets of the config
    train_panoptic_json="",
    train_panoptic_pngs="",
    train_images="",
    val_panoptic_json="",
    val_panoptic_pngs="",
    val_images="",
    classes="",  # set from these files
    check_all=False,  # read all segment maps before training, not only some
)


def make_dataloader(train, test, train_augmentations, test_augmentations):
    """The ``dataloader`` node for registered data sets."""
    return dict(
        train=L(TrainLoader)(
            dataset=L(get_detection_dataset_dicts)(names=train, filter_empty=False),
            mapper=L(PanopticMapper)(
                is_train=True, augmentations=train_augmentations, image_format="RGB"
            ),
            total_batch_size=16,
            num_workers=4,
            timeout=600,  # seconds without an image after which the run stops; 0: never
        ),
        test=L(build_detection_test_loader)(
            dataset=L(get_detection_dataset_dicts)(names=test, filter_empty=False),
            mapper=L(PanopticMapper)(
                is_train=False, augmentations=test_augmentations, image_format="RGB"
            ),
            num_workers=4,
        ),
        evaluator=L(build_panoptic_evaluator)(
            dataset_name="${..test.dataset.names}",
            output_dir="${train.output_dir}/inference",
            instances="${model.instance_on}",
        ),
    )


def make_jittered(train, test, image_size, test_augmentations):
    """Training images become squares by large-scale jitter from 0.1 to 2.0."""
    jitter = L(large_scale_jitter)(image_size=image_size)
    dataloader = make_dataloader(train, test, jitter, test_augmentations)
    dataloader["train"].aspect_ratio_grouping = False  # all images have the same size
    return dataloader


def resize_to(short_edge, max_size):
    """Test images keep their aspect ratio."""
    return L(resize)(short_edges=[short_edge], max_size=max_size)
