"""Shared parts of the data configs for semantic segmentation.

``data`` holds what a leaf or an override changes: sizes (``crop_size`` is (height, width); scales
are limits of the longer and the shorter side), and files that replace the data sets.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader

from vit_adapter.data import (
    SemanticMapper,
    TrainLoader,
    semantic_dataset_dicts,
    semantic_test,
    semantic_train,
)
from vit_adapter.evaluation import SemSegEvaluator


def make_data(crop, scale, test_scale=None):
    """The ``data`` node for square crops; tests at the scale of the training by default."""
    return dict(
        # folders of images and of label maps, and the names of the classes (a list or a JSON
        # file); empty = the data sets named below
        train_images="",
        train_labels="",
        val_images="",
        val_labels="",
        classes="",
        check_all=False,  # read all of these files before training, not only some
        crop_size=[crop, crop],
        scale=list(scale),
        test_scale=list(test_scale or scale),
    )


def make_dataloader(train, test, size_divisor=32):
    """The ``dataloader`` node for registered data sets; ``train`` may be several names."""
    return dict(
        train=L(TrainLoader)(
            dataset=L(semantic_dataset_dicts)(names=train),
            mapper=L(SemanticMapper)(
                is_train=True,
                augmentations=L(semantic_train)(
                    scale="${data.scale}",
                    crop_size="${data.crop_size}",
                    ratio_range=[0.5, 2.0],
                    max_class_share=0.75,
                ),
                image_format="RGB",
                dataset_names="${..dataset.names}",
                pad_size="${data.crop_size}",
                pixel_mean="${model.pixel_mean}",
            ),
            total_batch_size=16,
            aspect_ratio_grouping=False,  # all crops have the same size
            num_workers=4,
            timeout=600,  # seconds without an image after which the run stops; 0: never
        ),
        test=L(build_detection_test_loader)(
            dataset=L(semantic_dataset_dicts)(names=test),
            mapper=L(SemanticMapper)(
                is_train=False,
                augmentations=L(semantic_test)(
                    scale="${data.test_scale}",
                    size_divisor=size_divisor,
                    several_scales="${oc.select:test.multi_scale.enabled,false}",
                ),
                image_format="RGB",
                dataset_names="${..dataset.names}",
            ),
            num_workers=4,
        ),
        evaluator=L(SemSegEvaluator)(
            dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}/inference"
        ),
    )
