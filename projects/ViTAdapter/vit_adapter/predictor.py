"""Prediction on images with a model that a LazyConfig describes.

Detectron2's ``DefaultPredictor`` reads only yacs configs. ``LazyPredictor`` has the same inputs and
outputs, and takes everything else (test-time resizing, colour order, class names, device, weights)
from the LazyConfig.

Shapes: H/W height and width of the caller's image, C its channels.
"""

import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import Metadata, MetadataCatalog, transforms as T
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.config.input_channels import stored_channels
from vit_adapter.config.loading import load_config
from vit_adapter.config.mask_branch import drop_mask_branch
from vit_adapter.config.model import build_model
from vit_adapter.config.own_data import register_test_data
from vit_adapter.config.portable import stored_metadata
from vit_adapter.config.tasks import (
    given_category_ids,
    given_classes,
    set_num_classes,
    stated_task,
)
from vit_adapter.config.test_time import loader_for_testing, wrap_for_testing
from vit_adapter.config.unstated_task import fill_in_task
from vit_adapter.config.weights import base_weights, uses_average
from vit_adapter.data.aug_input import AugInput
from vit_adapter.data.channel_files import channels_last
from vit_adapter.data.image_io import MIN_SIDE
from vit_adapter.data.semantic.own_folders import default_colors, read_class_names
from vit_adapter.sharing import Shareable
from vit_adapter.test_time import DetectorViews

__all__ = ["LazyPredictor", "as_bgr_uint8"]

logger = logging.getLogger(__name__)


class LazyPredictor(Shareable):
    """One image in, one prediction out: the counterpart of ``DefaultPredictor`` for LazyConfigs.

    :meth:`batch` predicts on several images at once. :meth:`save_pretrained` and
    :meth:`from_pretrained` write and read portable folders.

    Unlike a call of the model itself, it loads the weights strictly (a checkpoint of another
    architecture is refused), converts the image to the colour order and size of the config's test
    mapper, and returns the result in the frame of the image. It is deterministic and runs without
    gradients in eval mode. Several threads may call one predictor at the same time.

    Args:
        config: path of a config file (.py, or the .yaml that training saves), a name in the model
            zoo, the output folder of a training run (its config and last weights are used), a
            portable folder, or a config object (left unchanged). A config can run any code: use
            only ones that you trust. A portable folder runs none.
        weights: path or URL of a checkpoint of the whole model, or of its trained part, on top of
            ``train.vit_checkpoint``; by default ``train.init_checkpoint``.
        overrides: ``"key=value"`` strings, applied before anything is built.
        precision: "float32", "bf16" or "fp16", in place of the config's ``test.precision``; see
            :class:`vit_adapter.test_time.MixedPrecision`.

    Attributes:
        cfg: the config after all overrides.
        model: the model in eval mode, including the wrappers of the config's ``test`` (sliding
            windows, tiles, several scales, soft-NMS, 16-bit precision).
        unwrapped_model: the same model without these wrappers.
        image_format: of the images that it takes, as for ``vit_adapter.data.read_image``: "BGR", or
            the number of channels of a model with ``model.input_channels``.
        metadata: names, colours and category ids of the classes, from the config's test data set;
            empty if the config names none.

    Raises:
        ValueError, TypeError: the config or an override cannot be used.
        FileNotFoundError: the config file or checkpoint does not exist.
        vit_adapter.checkpoint.CheckpointMismatchError: the weights do not fit the model.

    Example::

        predictor = LazyPredictor("coco/mask_rcnn_vit_adapter_tiny_deit_3x", "model_final.pth")
        instances = predictor(cv2.imread("street.jpg"))["instances"]
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping,
        weights: str | os.PathLike[str] | None = None,
        overrides: Sequence[str] = (),
        *,
        precision: str | None = None,
    ) -> None:
        if isinstance(overrides, str):
            raise TypeError(f"overrides is the string {overrides!r}; pass a list: [{overrides!r}]")
        self.cfg = load_config(config, overrides)
        fill_in_task(self.cfg)
        if precision is not None:
            OmegaConf.update(self.cfg, "test.precision", precision, force_add=True)
        self._augmentations, self._input_format = _test_input(self.cfg)
        channels = self._input_format if isinstance(self._input_format, int) else None
        self.image_format = channels or "BGR"
        self.metadata = _class_metadata(self.cfg)
        model = build_model(self.cfg).eval()
        self._load_weights(model, weights)
        self.unwrapped_model = model
        self.model = wrap_for_testing(self.cfg, model)
        # Views change settings of the detector while they run.
        has_views = any(isinstance(part, DetectorViews) for part in self.model.modules())
        self._one_at_a_time = threading.Lock() if has_views else nullcontext()

    def _load_weights(self, model: nn.Module, weights: str | os.PathLike[str] | None) -> None:
        path = weights or OmegaConf.select(self.cfg, "train.init_checkpoint", default="")
        if not path:
            logger.warning(
                "Neither weights nor train.init_checkpoint is given, so the predictions come from "
                "a randomly initialised model."
            )
            return
        allow = OmegaConf.select(self.cfg, "train.allow_mismatch", default=())
        checkpointer = Checkpointer(
            model,
            allow_mismatch=allow,
            base=base_weights(self.cfg),
            load_average=uses_average(self.cfg),
        )
        checkpointer.load(os.fspath(path))

    def __call__(self, original_image: np.ndarray | Tensor) -> dict:
        """Predict on one image.

        Args:
            original_image: array (H, W, 3), uint8 and BGR as ``cv2.imread`` returns it. Grey images
                (H, W) or (H, W, 1) get three equal channels; the alpha channel of BGRA (H, W, 4) is
                dropped. Or a tensor (3, H, W) on any device, uint8 and RGB as
                ``torchvision.io.decode_image`` returns it. If ``image_format`` is a number C:
                array (H, W, C) or (C, H, W), or tensor (C, H, W), with one channel also (H, W), of
                any numbers in the units of the training images.

        Returns:
            What ``DefaultPredictor`` returns, the model's output for one image in the frame of
            ``original_image``: ``{"instances": Instances}`` with boxes (x0, y0, x1, y1) in pixels
            and masks (H, W); ``{"sem_seg": Tensor}`` with the scores (classes, H, W) of a semantic
            model; ``{"panoptic_seg": (Tensor, list), "instances": Instances}`` of a panoptic model,
            with the segment of each pixel (H, W) and a dict for each segment.

        Raises:
            TypeError: it is not an array or tensor of this type.
            ValueError: it is not one image of at least 2 x 2 pixels, or too long and narrow to be
                resized.
        """
        return self._predict([self._prepare(original_image)])[0]

    def batch(self, images: Iterable[np.ndarray | Tensor]) -> list[dict]:
        """Predict on several images, with one forward pass for all images of the same size.

        The size is the one after resizing. Images of different sizes are not padded to a common
        one, so the results are those of single images, up to rounding. All images of a size are in
        memory at once.

        Args:
            images: each as for a single call; a tensor (B, 3, H, W) is B images.

        Returns:
            The result of each image, in the order of ``images``.

        Raises:
            TypeError, ValueError: as for a single call; the message says which image, from 0.
        """
        if isinstance(images, (np.ndarray, Tensor)) and images.ndim < 4:
            kind = "tensor" if isinstance(images, Tensor) else "array"
            raise TypeError(
                f"batch() got one {kind} of shape {tuple(images.shape)}, expected several images; "
                "pass a list, [image]"
            )
        prepared = []
        for index, image in enumerate(images):
            try:
                prepared.append(self._prepare(image))
            except (TypeError, ValueError) as error:
                raise type(error)(f"image {index} of the batch: {error}") from error
        groups: dict[torch.Size, list[int]] = {}
        for index, inputs in enumerate(prepared):
            groups.setdefault(inputs["image"].shape, []).append(index)
        results: dict[int, dict] = {}
        for group in groups.values():
            outputs = self._predict([prepared[index] for index in group])
            results.update(zip(group, outputs, strict=True))
        return [results[index] for index in range(len(prepared))]

    @torch.no_grad()
    def _predict(self, inputs: list[dict]) -> list[dict]:
        with self._one_at_a_time:
            return self.model(inputs)

    def _prepare(self, original_image: np.ndarray | Tensor) -> dict:
        """Return the model's input for one image."""
        if isinstance(self.image_format, int):
            if isinstance(original_image, Tensor):
                original_image = original_image.cpu().numpy()
            image = _as_channels(original_image, self.image_format)
        else:
            if isinstance(original_image, Tensor):
                original_image = _tensor_to_array(original_image)
            image = as_bgr_uint8(original_image)
            if self._input_format == "RGB":
                image = image[:, :, ::-1]
        height, width = image.shape[:2]
        image = self._augment(np.ascontiguousarray(image))
        tensor = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}

    def _augment(self, image: np.ndarray) -> np.ndarray:
        """Apply the test mapper's augmentations to an (H, W, C) image."""
        augmented = AugInput(image)
        try:
            self._augmentations(augmented)
        except ValueError as error:
            # The limit on the long side can leave less than half a pixel for the short side.
            raise ValueError(
                f"an image of {image.shape[1]} x {image.shape[0]} pixels (width x height) cannot "
                f"be resized by the config's test mapper: {error}. Crop the image, or raise the "
                "longest side in dataloader.test.mapper.augmentations."
            ) from error
        return augmented.image


def _tensor_to_array(image: Tensor) -> np.ndarray:
    """Convert an RGB tensor (3, H, W) to a BGR array (H, W, 3) of the same type.

    Raises:
        ValueError: it has another shape.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"the tensor has shape {tuple(image.shape)}, expected one image (3, H, W) in RGB "
            "order; give several images, (B, 3, H, W), to batch()."
        )
    return image.flip(0).permute(1, 2, 0).cpu().numpy()


def as_bgr_uint8(image: np.ndarray) -> np.ndarray:
    """Check an image and convert it to three channels.

    Args:
        image: uint8, grey (H, W) or (H, W, 1), BGR (H, W, 3) or BGRA (H, W, 4).

    Returns:
        (H, W, 3) uint8, BGR; a view if no channel is added.

    Raises:
        TypeError: it is not a NumPy array of uint8.
        ValueError: it has another shape, or is less than two pixels high or wide.
    """
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"the image is of type {type(image).__qualname__}, expected a uint8 NumPy array "
            "(H, W, 3) in BGR order, or a tensor (3, H, W) in RGB order. cv2.imread returns an "
            "array, or None if it cannot read the file."
        )
    if image.dtype != np.uint8:
        raise TypeError(
            f"the image has dtype {image.dtype}, expected uint8 with values 0 to 255. Other types "
            "have no fixed range, so convert it first: for values in 0..1 use "
            "(image * 255).round().astype('uint8')."
        )
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(
            f"the image has shape {image.shape}, expected (H, W, 3) in BGR order, (H, W) or "
            "(H, W, 1) for grey, or (H, W, 4) for BGRA: one image, channels last."
        )
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"the image has {width} x {height} pixels (width x height), expected at least "
            f"{MIN_SIDE} x {MIN_SIDE}; leave out smaller images."
        )
    if image.shape[2:] in ((), (1,)):
        return np.repeat(image.reshape(height, width, 1), 3, axis=2)
    return image[:, :, :3]


def _as_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Check an image of any numbers and return it as (H, W, ``channels``) float32."""
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"the image is of type {type(image).__qualname__}, expected a NumPy array with "
            f"{channels} channels, as vit_adapter.data.read_image(file, {channels}) returns it"
        )
    image = channels_last(image, channels, "the image")
    if min(image.shape[:2]) < MIN_SIDE:
        raise ValueError(f"the image has shape {image.shape}, expected sides >= {MIN_SIDE} pixels.")
    return image


def _test_input(cfg: DictConfig) -> tuple[T.AugmentationList, str | int]:
    """Return the augmentations and the colour order of the config's test mapper."""
    mapper = OmegaConf.select(cfg, "dataloader.test.mapper") or {}
    for key in ("augmentations", "image_format"):
        if key not in mapper:
            raise ValueError(
                f"the config has no dataloader.test.mapper.{key}; the predictor reads from "
                "dataloader.test.mapper how to resize images and their colour order"
            )
    if mapper.image_format not in ("RGB", "BGR") and stored_channels(cfg) is None:
        raise ValueError(
            f"dataloader.test.mapper.image_format is {mapper.image_format!r}, expected RGB or BGR"
        )
    augmentations = loader_for_testing(cfg).mapper.augmentations
    return T.AugmentationList(instantiate(augmentations)), mapper.image_format


def _class_metadata(cfg: DictConfig) -> Metadata:
    """Return the metadata of the classes; empty if the config names no test data set.

    With custom data, this also adapts the model of ``cfg`` as training does. The files are not
    needed if the config holds the names of the classes, as it does after training.
    """
    if (stored := stored_metadata(cfg)) is not None:
        return Metadata(**stored)
    classes = given_classes(cfg)
    if classes and stated_task(cfg).kind == "stuff":
        names = read_class_names(classes)
        colors = default_colors(len(names))
        set_num_classes(cfg, len(names))
        if stated_task(cfg).name != "panoptic":
            return Metadata(stuff_classes=names, stuff_colors=colors)
        return Metadata(  # things are among the stuff, with the same numbers
            thing_classes=names,
            thing_colors=colors,
            stuff_classes=names,
            stuff_colors=colors,
            **given_category_ids(cfg),
        )
    if classes:
        return Metadata(thing_classes=classes, **given_category_ids(cfg))
    names = register_test_data(cfg)
    drop_mask_branch(cfg)
    return MetadataCatalog.get(names[0]) if names else Metadata()
