"""Mask R-CNN on data that have boxes alone: trained without its mask branch, as Faster R-CNN."""

import logging
from contextlib import suppress
from pathlib import Path

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.own_data import dataset_names
from vit_adapter.data.instances.coco_file import read_coco_json

__all__ = ["drop_mask_branch"]

logger = logging.getLogger(__name__)

_BRANCH = ("mask_in_features", "mask_pooler", "mask_head")


def drop_mask_branch(cfg: DictConfig) -> None:
    """Leave the mask branch out of the model if the training data are known to have no masks.

    Evaluation and prediction call this as well, so that they build the model that was trained; the
    config that a training saved has no branch any more. Data that do not tell their
    ``mask_format``, and models that learn masks otherwise than by ``roi_heads.mask_head``, stay as
    they are.

    Args:
        cfg: changed in place, ``model.roi_heads`` and ``dataloader.train.mapper``.
    """
    heads = OmegaConf.select(cfg, "model.roi_heads")
    if not heads or heads.get("mask_head") is None or not _learns_boxes_alone(cfg):
        return
    for key in _BRANCH:
        if key in heads:
            heads[key] = None
    mapper = cfg.dataloader.train.get("mapper") or {}
    if mapper.get("use_instance_mask"):
        mapper.use_instance_mask = False
    logger.warning(
        "The annotations of %s have no masks: the model is built without its mask branch, as a "
        "Faster R-CNN (model.roi_heads.mask_head=null).",
        OmegaConf.select(cfg, "data.train_json") or ", ".join(dataset_names(cfg, "train")),
    )


def _learns_boxes_alone(cfg: DictConfig) -> bool:
    names = dataset_names(cfg, "train")
    own = OmegaConf.select(cfg, "data.train_json")
    if own and "custom_train" not in names:  # nothing is trained: the file need not be there
        with suppress(FileNotFoundError, ValueError):
            annotations = read_coco_json(Path(own)).get("annotations") or []
            return bool(annotations) and not any(a.get("segmentation") for a in annotations)
        return False
    formats = [MetadataCatalog.get(name).get("mask_format", "unknown") for name in names]
    return bool(names) and not any(formats)
