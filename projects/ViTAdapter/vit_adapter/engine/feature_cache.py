"""``train.feature_cache``: fixed views of the training images, and a frozen ViT's output for them.

With ``views`` above 0 each image has this number of augmented views, drawn from seeds, in place of
a new one each time. With ``dir`` the output of the frozen ViT for each view is kept there, so that
only the first use of a view runs the ViT. The losses are the same with and without ``dir``.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import Dataset

from vit_adapter.backbone import ViTAdapter
from vit_adapter.backbone.frozen import computing_dtype
from vit_adapter.config.errors import UsageError
from vit_adapter.data.views import ImageViews
from vit_adapter.engine.build import build_view_mapper, read_train_data
from vit_adapter.engine.precision import Precision
from vit_adapter.feature_cache import (
    TapStore,
    ViewTaps,
    check_folder,
    claim_folder,
    describe_trunk,
    free_bytes,
)

__all__ = ["CacheReport", "attach_feature_cache"]

logger = logging.getLogger(__name__)

_SAMPLE = 32  # views that are made before training, to estimate the size of all
_WITHOUT_EFFECT = ("drop_path_rate", "use_checkpoint")  # on a frozen ViT


class CacheReport(HookBase):
    """Logs at the end how often a cache was of use."""

    def __init__(self, store: TapStore) -> None:
        self._store = store

    def after_train(self) -> None:
        """Log the counts of this process."""
        store = self._store
        logger.info(
            "Feature cache: %d views were read and %d were computed, of which %d had a damaged "
            "file.",
            store.num_read,
            store.num_computed,
            store.num_corrupt,
        )


def attach_feature_cache(
    cfg: DictConfig, model: nn.Module, dataset: Dataset | None, precision: Precision
) -> tuple[Dataset | None, list[HookBase]]:
    """Apply ``train.feature_cache`` to a run; every process calls this.

    The size on disk is estimated from some of the views and logged before anything is written.

    Args:
        cfg: the whole config.
        model: with the weights that the run starts from, without a wrapper. Its frozen ViT gets
            what it needs for the views; its forward pass then expects inputs from
            :class:`vit_adapter.data.views.ViewMapper`.
        dataset: the training data, if they have already been read.
        precision: in which the run computes.

    Returns:
        The data set for ``build_train_loader`` (``dataset`` itself if there are no views) and the
        hooks for the trainer.

    Raises:
        UsageError: the options are not valid, the model has no frozen ViT, the folder belongs to
            another ViT, or the disk is too small.
    """
    options = cfg.train.get("feature_cache") or {}
    num_views, folder = _check_options(options.get("views", 0), options.get("dir", ""))
    if not num_views:
        return dataset, []
    name, backbone = _find_frozen_adapter(model)
    views = _make_views(cfg, dataset, num_views)
    store = TapStore(Path(folder)) if folder else None
    taps = ViewTaps(backbone, store)
    if store is not None:
        trunk = _describe_trunk(cfg, model, name, backbone, precision)
        _prepare_folder(cfg, store, taps, views, trunk)
    backbone.tap_source = taps
    model.register_forward_pre_hook(
        lambda module, args: taps.expect(args[0]) if module.training else None
    )
    return views, [] if store is None else [CacheReport(store)]


def _check_options(views: object, folder: object) -> tuple[int, str]:
    if type(views) is not int or views < 0:  # True is an int as well
        raise UsageError(
            f"train.feature_cache.views={views!r}, expected the number of augmented views of each "
            "image, or 0 for a new one each time."
        )
    if not isinstance(folder, str):
        raise UsageError(f"train.feature_cache.dir={folder!r}, expected a folder or ''.")
    if folder and not views:
        raise UsageError(
            f"train.feature_cache.dir={folder} needs train.feature_cache.views, the number of "
            "augmented views of each image that are stored, for example 4."
        )
    return views, folder


def _find_frozen_adapter(model: nn.Module) -> tuple[str, ViTAdapter]:
    """Return name and module of the adapter whose ViT is frozen."""
    found = [(name, part) for name, part in model.named_modules() if isinstance(part, ViTAdapter)]
    if not found:
        raise UsageError(
            "train.feature_cache stores the output of the frozen ViT of a ViTAdapter, but this "
            "model has no ViTAdapter. Use a config with one, or train.feature_cache.views=0."
        )
    name, module = found[0]
    if module.mode != "frozen":
        raise UsageError(
            f"train.feature_cache needs a ViT that stays fixed, but model.{name}.mode is "
            f"{module.mode!r}. Use model.{name}.mode=frozen, or train.feature_cache.views=0."
        )
    trained = [key for key, value in module.vit.named_parameters() if value.requires_grad]
    if trained:
        raise UsageError(
            f"train.feature_cache needs a ViT that stays fixed, but {len(trained)} tensors of "
            f"model.{name}.vit are trained ({trained[0]}, ...). Train none of them, or use "
            "train.feature_cache.views=0."
        )
    return name, module


def _make_views(cfg: DictConfig, dataset: Dataset | None, num_views: int) -> ImageViews:
    dataset = read_train_data(cfg) if dataset is None else dataset
    if not hasattr(dataset, "__len__") or cfg.dataloader.train.get("sampler") is not None:
        raise UsageError(
            "train.feature_cache lists the views of each image itself: dataloader.train needs a "
            "data set with a length, and no sampler of its own. Otherwise use "
            "train.feature_cache.views=0."
        )
    return ImageViews(dataset, num_views)


def _describe_trunk(
    cfg: DictConfig, model: nn.Module, name: str, backbone: ViTAdapter, precision: Precision
) -> dict[str, Any]:
    options = _plain(OmegaConf.select(cfg.model, f"{name}.vit")) or {}
    with precision.autocast():
        dtype = computing_dtype(precision.device_type)
    return describe_trunk(
        backbone,
        dtype=dtype,
        options={key: value for key, value in options.items() if key not in _WITHOUT_EFFECT},
        statistics=[model.pixel_mean.flatten().tolist(), model.pixel_std.flatten().tolist()],
    )


def _prepare_folder(
    cfg: DictConfig, store: TapStore, taps: ViewTaps, views: ImageViews, trunk: dict[str, Any]
) -> None:
    """Check the folder and the space on the disk, then write the description of the cache."""
    node = cfg.dataloader.train
    data = {"dataset": _plain(node.get("dataset")), "mapper": _plain(node.get("mapper"))}
    try:
        stored_data = check_folder(store.folder, trunk)
    except ValueError as error:
        raise UsageError(str(error)) from error
    stored = store.stored_bytes()
    if stored_data is not None and stored_data != data:
        logger.warning(
            "The feature cache in %s was made with other training data or augmentations. Its files "
            "(%s) are used only where the augmented images are the same. Delete the folder to free "
            "the space of the rest.",
            store.folder,
            _in_words(stored),
        )
        stored = 0
    _check_space(store, stored, _estimate_bytes(cfg, taps, views), views)
    try:
        claim_folder(store.folder, trunk, data)
    except OSError as error:
        raise UsageError(
            f"train.feature_cache.dir={store.folder} cannot be written: {error}. Give a folder "
            "that can."
        ) from error


def _estimate_bytes(cfg: DictConfig, taps: ViewTaps, views: ImageViews) -> int:
    """Return about how much space the files of all views take."""
    mapper = build_view_mapper(cfg)
    indexes = torch.linspace(0, len(views) - 1, min(_SAMPLE, len(views))).long().tolist()
    mapped = [record for index in indexes if (record := mapper(views[index])) is not None]
    sizes = [TapStore.file_bytes(taps.tap_shape(*r["image"].shape[-2:])) for r in mapped]
    return round(sum(sizes) / max(1, len(sizes)) * len(views))


def _check_space(store: TapStore, stored: int, needed: int, views: ImageViews) -> None:
    free = free_bytes(store.folder)
    logger.info(
        "Feature cache: %d images x %d views take about %s in %s, of which %s are there; %s are "
        "free.",
        views.num_images,
        views.num_views,
        _in_words(needed),
        store.folder,
        _in_words(stored),
        _in_words(free),
    )
    if needed - stored > free:
        raise UsageError(
            f"The feature cache does not fit on the disk: {views.num_images} images x "
            f"{views.num_views} views need about {_in_words(needed - stored)} more in "
            f"{store.folder}, but only {_in_words(free)} are free. Use fewer views "
            "(train.feature_cache.views), smaller images, or a folder on another disk "
            "(train.feature_cache.dir)."
        )


def _in_words(num_bytes: int) -> str:
    unit = "GiB" if num_bytes >= 2**30 else "MiB"
    return f"{num_bytes / (2**30 if unit == 'GiB' else 2**20):.1f} {unit}"


def _plain(node: Any) -> Any:
    """Return a part of a config as JSON values; classes and functions become their names."""
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True)
    names = json.dumps(node, default=lambda o: getattr(o, "__qualname__", type(o).__qualname__))
    return json.loads(names)
