"""Test-time wrappers of semantic models that a config selects: sliding windows, several scales."""

from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.config.errors import UsageError
from vit_adapter.test_time import MultiScaleFlip, SlidingWindow

__all__ = ["wrap_for_testing"]


def wrap_for_testing(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """Wrap a model as ``cfg.test`` says; evaluation and prediction both use this.

    ``test.sliding_window`` has the arguments of :class:`SlidingWindow`. ``test.multi_scale`` has
    those of :class:`MultiScaleFlip` and the switch ``enabled``. Both are for semantic models; if
    they are absent or null, whole images are tested at a single scale. The default of ``min_side``
    is the larger side of a window, the default of ``limits`` is ``data.test_scale``, the limits for
    a single scale.

    Args:
        cfg: a config of this project; only ``test`` and ``data.test_scale`` are read.
        model: its model.

    Returns:
        ``model`` itself, or a wrapper around it in the same mode.

    Raises:
        ValueError: ``test`` has unknown keys, or numbers out of range.
        TypeError: the wrapper does not have an argument of this name.
    """
    options = OmegaConf.select(cfg, "test", default=None) or {}
    unknown = sorted(set(options) - {"sliding_window", "multi_scale"})
    if unknown:
        raise UsageError(
            f"test has the unknown keys {unknown}; expected sliding_window and multi_scale"
        )
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
