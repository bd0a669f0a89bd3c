"""COCO instance segmentation, and the ``data`` node for custom data.

1x trains with a short side of 800 and a long side of at most 1333 pixels; 3x mixes sizes and crops
like DETR; ``lsj`` is large-scale jitter. All test at 800/1333. Training leaves out images without
annotations. ``boxes`` is for detectors without masks.
"""

from copy import deepcopy as _deepcopy

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts

from vit_adapter.data import (
    CheckedDatasetMapper,
    InstanceJitter,
    InstanceSemanticMapper,
    TrainLoader,
    coco_1x_train,
    coco_3x_train,
    coco_htc_train,
    coco_lsj_train,
    coco_test,
    instances_with_label_maps,
    resize,
)
from vit_adapter.evaluation import build_coco_evaluator

# COCO-format files that replace the data sets named below; empty = not used
data = dict(
    train_json="",
    train_images="",
    val_json="",
    val_images="",
    check_all=False,  # --dry-run decodes all images, not only some
)


def _dataloader(train_augmentations, masks=True):
    return dict(
        train=L(TrainLoader)(
            dataset=L(get_detection_dataset_dicts)(names="coco_2017_train", filter_empty=True),
            mapper=L(CheckedDatasetMapper)(
                is_train=True,
                augmentations=L(train_augmentations)(),
                image_format="${model.input_format}",
                use_instance_mask=masks,
                instance_mask_format="bitmask",  # targets are cut from whole masks
            ),
            total_batch_size=16,
            num_workers=4,
            timeout=600,  # seconds without an image after which the run stops; 0: never
        ),
        test=L(build_detection_test_loader)(
            dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
            mapper=L(CheckedDatasetMapper)(
                is_train=False,
                augmentations=L(coco_test)(),
                image_format="${model.input_format}",
            ),
            num_workers=4,
        ),
        evaluator=L(build_coco_evaluator)(
            dataset_name="${..test.dataset.names}",
            output_dir="${train.output_dir}/inference",
        ),
    )


dataloader_1x = _dataloader(coco_1x_train)
dataloader_3x = _dataloader(coco_3x_train)
dataloader_boxes_3x = _dataloader(coco_3x_train, masks=False)
dataloader_lsj = _dataloader(coco_lsj_train)
dataloader_lsj["train"].mapper.recompute_boxes = True  # from what the crop leaves of the masks

# ViTDet at 1280 px
dataloader_lsj_1280 = _deepcopy(dataloader_lsj)
dataloader_lsj_1280["train"].total_batch_size = 64
dataloader_lsj_1280["train"].mapper.augmentations.size = 1280
dataloader_lsj_1280["test"].mapper.augmentations = L(resize)(short_edges=[1280], max_size=1280)

# For models that also learn from COCO-Stuff's label maps, as they are: 0 to 181, and 255
dataloader_htc = _deepcopy(dataloader_3x)
_dataset, _mapper = dataloader_htc["train"].dataset, dataloader_htc["train"].mapper
_dataset._target_ = instances_with_label_maps
_dataset.label_root = "coco/stuffthingmaps/train2017"
_mapper._target_ = InstanceSemanticMapper
_mapper.num_semantic_classes = "${model.roi_heads.semantic_head.num_classes}"
_mapper.instance_jitter = L(InstanceJitter)()
_mapper.augmentations = L(coco_htc_train)()
dataloader_htc["test"].mapper.augmentations = L(resize)(short_edges=[1400], max_size=1600)

# For fine-tuning after Objects365
dataloader_htc_o365 = _deepcopy(dataloader_htc)
dataloader_htc_o365["train"].total_batch_size = 64
dataloader_htc_o365["train"].mapper.instance_jitter = None
dataloader_htc_o365["train"].mapper.augmentations = L(coco_htc_train)(
    short_edges=[600, 1600], max_size=2000
)
dataloader_htc_o365["test"].mapper.augmentations = L(resize)(short_edges=[1000], max_size=2000)
