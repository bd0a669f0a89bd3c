"""What a perfect model predicts for images of COCO-format data, and its scores."""

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_util

from vit_adapter.evaluation import build_coco_evaluator


def perfect(record, with_masks=True):
    """Return what a perfect model would predict."""
    annotations = record["annotations"]
    instances = Instances((record["height"], record["width"]))
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.ones(len(annotations))
    instances.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.long)
    if with_masks:
        masks = [_mask(a["segmentation"], instances.image_size) for a in annotations]
        instances.pred_masks = torch.from_numpy(np.array(masks))
    return instances


def _mask(segmentation, size):
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    return mask_util.decode(segmentation).astype(bool)


def evaluate(name, predict, output_dir=None, **options):
    evaluator = build_coco_evaluator(name, output_dir, distributed=False, **options)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [{"instances": predict(record)}])
    return evaluator.evaluate()
