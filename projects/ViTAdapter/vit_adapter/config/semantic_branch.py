"""Hybrid task cascades without their semantic branch: trained without label maps."""

from omegaconf import DictConfig, OmegaConf

__all__ = ["drop_label_maps"]


def drop_label_maps(cfg: DictConfig) -> None:
    """Let the training data have no label maps if ``model.roi_heads.semantic_head`` is null.

    Nothing changes for models that have the branch, and for models that never have one.

    Args:
        cfg: its ``dataloader.train`` is changed in place.
    """
    heads = OmegaConf.select(cfg, "model.roi_heads") or {}
    if "semantic_head" not in heads or heads.semantic_head is not None:
        return
    for part, key in (("dataset", "label_root"), ("mapper", "num_semantic_classes")):
        node = OmegaConf.select(cfg, f"dataloader.train.{part}") or {}
        if key in node:
            node[key] = None
