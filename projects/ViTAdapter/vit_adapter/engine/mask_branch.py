"""Mask R-CNN on data that have boxes alone: trained without its mask branch, as Faster R-CNN."""

import logging

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from vit_adapter.engine.custom_data import dataset_names

__all__ = ["drop_mask_branch"]

logger = logging.getLogger(__name__)

_BRANCH = ("mask_in_features", "mask_pooler", "mask_head")


def drop_mask_branch(cfg: DictConfig) -> None:
    """Leave the mask branch out of the model if the training data are known to have no masks.

    Evaluation and prediction call this as well, so that they build the model that was trained. Of
    data of the user's own they see the validation part alone; the config that the training saved
    has no branch any more. Data that do not tell their ``mask_format``, and models that learn masks
    otherwise than by ``roi_heads.mask_head``, stay as they are.

    Args:
        cfg: changed in place, ``model.roi_heads`` and ``dataloader.train.mapper``.
    """
    heads = OmegaConf.select(cfg, "model.roi_heads")
    names = dataset_names(cfg, "train")
    if not heads or heads.get("mask_head") is None or not names:
        return
    if any(MetadataCatalog.get(name).get("mask_format", "unknown") for name in names):
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
        ", ".join(names),
    )
