"""Mask R-CNN and its cascade on data with boxes only: trained without their mask branch."""

import logging
from contextlib import suppress
from pathlib import Path

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.data_checks import dataset_names
from vit_adapter.data.instances.coco_file import read_coco_json

__all__ = ["drop_mask_branch"]

logger = logging.getLogger(__name__)

_HEADS = ("mask_head", "mask_heads")  # a cascade has one for each stage
_BRANCH = ("mask_in_features", "mask_pooler", *_HEADS)


def drop_mask_branch(cfg: DictConfig) -> None:
    """Remove the mask branch from the model if the training data are known to have no masks.

    The jitter of instances, which needs masks, is removed with it.

    Evaluation and prediction call this as well, so that they build the model that was trained. (A
    config saved by training has no branch any more.) Nothing changes if the data do not state
    their ``mask_format``, or if the model does not learn masks with ``roi_heads.mask_head`` or
    ``roi_heads.mask_heads``.

    Args:
        cfg: its ``model.roi_heads`` and ``dataloader.train.mapper`` are changed in place.
    """
    heads = OmegaConf.select(cfg, "model.roi_heads")
    branch = next((key for key in _HEADS if heads and heads.get(key) is not None), None)
    if branch is None or not _learns_only_boxes(cfg):
        return
    for key in _BRANCH:
        if key in heads:
            heads[key] = None
    mapper = cfg.dataloader.train.get("mapper") or {}
    if mapper.get("use_instance_mask"):
        mapper.use_instance_mask = False
    if mapper.get("instance_jitter") is not None:  # it cuts objects out by their masks
        mapper.instance_jitter = None
    logger.warning(
        "The annotations of %s have no masks. The model is built without its mask branch "
        "(model.roi_heads.%s=null).",
        OmegaConf.select(cfg, "data.train_json") or ", ".join(dataset_names(cfg, "train")),
        branch,
    )


def _learns_only_boxes(cfg: DictConfig) -> bool:
    names = dataset_names(cfg, "train")
    own = OmegaConf.select(cfg, "data.train_json")
    if own and "custom_train" not in names:  # no training, so the file may be missing
        with suppress(FileNotFoundError, ValueError):
            annotations = read_coco_json(Path(own)).get("annotations") or []
            return bool(annotations) and not any(a.get("segmentation") for a in annotations)
        return False
    formats = [MetadataCatalog.get(name).get("mask_format", "unknown") for name in names]
    return bool(names) and not any(formats)
