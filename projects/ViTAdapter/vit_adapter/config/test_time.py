"""Semantic models as a config tests them: in sliding windows, at several scales."""

from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.config.errors import UsageError
from vit_adapter.segmentation import MultiScaleFlip, SlidingWindow

__all__ = ["wrap_for_testing"]


def wrap_for_testing(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """Put around a model what ``cfg.test`` asks for; evaluation and prediction both use it.

    ``test.sliding_window`` has the arguments of :class:`SlidingWindow`, ``test.multi_scale`` those
    of :class:`MultiScaleFlip` and the switch ``enabled``; both are for semantic models. Where they
    are absent or null, whole images are tested at a single scale. Without ``min_side`` no view is
    smaller than a window; ``limits`` are by default ``data.test_scale``, those of a single scale.

    Args:
        cfg: a config of this project; only ``test`` and ``data.test_scale`` are read.
        model: its model.

    Returns:
        ``model`` itself, or a wrapper in the same mode around it.

    Raises:
        ValueError: ``test`` has other keys, or numbers out of range.
        TypeError: an argument that the wrapper does not have.
    """
    options = OmegaConf.select(cfg, "test", default=None) or {}
    unknown = sorted(set(options) - {"sliding_window", "multi_scale"})
    if unknown:
        raise UsageError(f"test has the keys {unknown}; known are sliding_window and multi_scale")
    window, multi_scale = options.get("sliding_window"), options.get("multi_scale")
    min_side = 1
    if window is not None:
        model = SlidingWindow(model, **window)
        min_side = max(model.crop_size)
    if multi_scale is not None:
        limits = OmegaConf.select(cfg, "data.test_scale", default=None)
        arguments = {"min_side": min_side, "limits": limits, **multi_scale}
        if arguments.pop("enabled", False):
            model = MultiScaleFlip(model, **arguments)
    return model
