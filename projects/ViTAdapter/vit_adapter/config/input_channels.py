"""Models whose images have any number of channels: ``model.input_channels``.

The key is a short form. Loading a config replaces it by what it stands for: the ``in_channels`` of
the ViT, the ``image_format`` of the mappers, and ``model.pixel_mean`` and ``model.pixel_std``, both
null until they are computed from the training data. The saved config of a training holds them, so
that evaluation and prediction use the same numbers.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.config.data_checks import dataset_names
from vit_adapter.config.errors import UsageError
from vit_adapter.data.panoptic.map_checks import spread
from vit_adapter.data.pixel_statistics import PixelStatistics, measure_pixels

__all__ = ["check_statistics", "expand_input_channels", "fit_statistics", "stored_channels"]

logger = logging.getLogger(__name__)

_KEY = "model.input_channels"
_STATISTICS = ("pixel_mean", "pixel_std")
_MEASURED = 200  # training images
_COMPARED = 20  # validation images, whose type is checked
_FAR = 3  # standard deviations between given and measured means that cause a warning


def expand_input_channels(cfg: DictConfig, given: Collection[str] = ()) -> None:
    """Replace ``model.input_channels`` by what it stands for; nothing happens without it.

    Args:
        cfg: changed in place.
        given: keys of the overrides. Statistics among them are kept, and others are set to null
            unless the config is already for this number of channels.

    Raises:
        UsageError: it is not a number of channels, the model has no ViT of this project, or the
            given statistics have another length.
    """
    model = cfg.get("model")
    if not isinstance(model, DictConfig) or "input_channels" not in model:
        return
    channels = model.pop("input_channels")
    if type(channels) is not int or channels < 1:
        raise UsageError(f"{_KEY}={channels!r} must be a whole number of at least 1.")
    trunks = list(_trunks(model))
    if not trunks or any(key not in model for key in _STATISTICS):
        raise UsageError(
            f"{_KEY} needs a model with a ViT of this project and with pixel_mean and pixel_std, "
            f"but this one has {len(trunks)} ViTs and the keys {', '.join(map(str, model))}."
        )
    is_from_file = _KEY not in given
    is_fitted = stored_channels(cfg) == channels
    for key in _STATISTICS:
        fits = isinstance(model[key], ListConfig) and len(model[key]) == channels
        keep = f"model.{key}" in given or ((is_fitted or is_from_file) and fits)
        if not keep:
            model[key] = None
    for trunk in trunks:
        trunk.in_channels = channels
    for split in ("train", "test"):
        mapper = OmegaConf.select(cfg, f"dataloader.{split}.mapper")
        if mapper:
            mapper.image_format = channels
            if mapper.get("instance_jitter") is not None:
                mapper.instance_jitter = None
                logger.warning("%s removes instance_jitter, which is for 8-bit RGB only.", _KEY)
    if model.get("vis_period"):
        model.vis_period = 0
        logger.warning("%s sets model.vis_period=0: its pictures are of RGB images only.", _KEY)
    check_statistics(cfg, needed=False)


def stored_channels(cfg: DictConfig) -> int | None:
    """Return the number of channels if images are read as stored, otherwise None."""
    image_format = OmegaConf.select(cfg, "dataloader.test.mapper.image_format")
    return image_format if isinstance(image_format, int) else None


def check_statistics(cfg: DictConfig, *, needed: bool = True) -> None:
    """Check that there are pixel statistics for each channel of images that are read as stored.

    Args:
        cfg: not changed.
        needed: whether they must be known.

    Raises:
        UsageError: they are missing or of another length.
    """
    channels = stored_channels(cfg)
    if channels is None:
        return
    for key in _STATISTICS:
        values = cfg.model[key]
        if values is None and not needed:
            continue
        if values is None:
            raise UsageError(
                f"model.{key} is not known: the statistics of images with {channels} channels are "
                "computed from the training data. Give the output folder of the training as the "
                "config, or the numbers of its config.yaml as model.pixel_mean and model.pixel_std."
            )
        if not isinstance(values, ListConfig) or len(values) != channels:
            found = f"{len(values)} values" if isinstance(values, ListConfig) else repr(values)
            raise UsageError(
                f"model.{key} has {found}, expected a list of {channels}, one for each channel in "
                "the units of the files. Leave it out to compute it from the training data."
            )


def fit_statistics(cfg: DictConfig) -> None:
    """Measure training images that are read as stored, and set the statistics that are null.

    All images that are read must have the same type. A warning tells if given statistics are far
    from the measured ones.

    Args:
        cfg: its data sets are registered; changed in place.

    Raises:
        FileNotFoundError, ValueError: as :func:`vit_adapter.data.pixel_statistics.measure_pixels`.
    """
    channels = stored_channels(cfg)
    records = _records(cfg, "train") if channels is not None else []
    if not records:
        return
    chosen = spread(records, _MEASURED)
    measured = measure_pixels(chosen, channels)
    if cfg.dataloader.get("evaluator") is not None and (others := _records(cfg, "test")):
        measure_pixels(spread(others, _COMPARED), channels, pixel_type=measured.pixel_type)
    unknown = [key for key in _STATISTICS if cfg.model[key] is None]
    for key, values in zip(_STATISTICS, (measured.mean, measured.std), strict=True):
        if key in unknown:
            cfg.model[key] = values
    if unknown:
        logger.info(
            "Statistics of %d channels (%s) from %d of %d training images: %s",
            channels,
            measured.pixel_type,
            len(chosen),
            len(records),
            " ".join(f"model.{key}={list(cfg.model[key])}" for key in unknown),
        )
    if measured.constant:
        logger.warning("The channels %s (from 0) are constant: std is 1.", measured.constant)
    if len(unknown) < len(_STATISTICS):
        _warn_if_far(cfg, measured)


def _warn_if_far(cfg: DictConfig, measured: PixelStatistics) -> None:
    given = zip(cfg.model.pixel_mean, cfg.model.pixel_std, strict=True)
    far = [
        channel
        for channel, (mean, std) in enumerate(given)
        if abs(measured.mean[channel] - mean) > _FAR * min(abs(std), measured.std[channel])
    ]
    if far:
        logger.warning(
            "model.pixel_mean=%s model.pixel_std=%s do not fit the training images, whose channels "
            "have the means %s and the standard deviations %s. Set both to null to use these.",
            *(list(cfg.model[key]) for key in _STATISTICS),
            measured.mean,
            measured.std,
        )


def _records(cfg: DictConfig, split: str) -> Sequence[Mapping[str, Any]]:
    return [record for name in dataset_names(cfg, split) for record in DatasetCatalog.get(name)]


def _trunks(node: DictConfig | ListConfig) -> Iterator[DictConfig]:
    """The nodes of all plain ViTs inside a model."""
    for name in node if isinstance(node, DictConfig) else range(len(node)):
        if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
            continue
        child = node[name]
        if isinstance(child, DictConfig) and _is_trunk(child.get("_target_")):
            yield child
        elif OmegaConf.is_config(child):
            yield from _trunks(child)


def _is_trunk(target: str | Callable[..., Any] | None) -> bool:
    target = locate(target) if isinstance(target, str) else target
    return isinstance(target, type) and issubclass(target, ViTTrunk)
