"""Draw a model's predictions on images, or on the frames of a video.

    demo.py --config-file quick_start/mask_rcnn_vit_adapter_shapes \
        --weights output/model_final.pth --input photos/ "more/*.jpg" --output pictures/

    demo.py --config-file output --video street.mp4 --output drawn.mp4

Without ``--input`` the images of the config's test data set are used. Exit status: 0 all drawn, 1
some images could not be read (each is named), 2 nothing could be done.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402
import cv2
import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vit_adapter import LazyPredictor
from vit_adapter.config.arguments import add_config_arguments
from vit_adapter.config.own_data import register_test_data
from vit_adapter.data import read_image
from vit_adapter.data.image_files import find_images
from vit_adapter.data.instances.coco_sets import check_downloaded
from vit_adapter.data.video import VIDEO_SUFFIXES, CameraReader, VideoReader, VideoWriter
from vit_adapter.drawing import draw_prediction, montage, save_picture
from vit_adapter.evaluation.coco_results import coco_results
from vit_adapter.utils.atomic import atomic_file, atomic_open
from vit_adapter.utils.command_line import reports_errors
from vit_adapter.utils.output_file import check_writable

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")

logger = logging.getLogger("vit_adapter.demo")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Draw a model's boxes and masks, or its segmentation, on images or a video.",
        epilog="exit status: 0 all drawn, 1 some images could not be read, 2 nothing could be done",
    )
    add = parser.add_argument
    add_config_arguments(parser)
    add(
        "--weights",
        help="checkpoint of the whole model (default: the config's train.init_checkpoint)",
    )
    add(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help="images, folders (not their sub-folders) or quoted globs ('**' reaches sub-folders); "
        "default: the config's test data set",
    )
    add("--video", type=Path, metavar="FILE", help="a video instead of images")
    add(
        "--camera",
        type=int,
        metavar="INDEX",
        help="a camera, from 0, instead of images; ends after --limit frames or by Ctrl+C",
    )
    add(
        "--output",
        required=True,
        type=Path,
        metavar="PATH",
        help="folder for the pictures; with --video or --camera a file that ends in "
        + ", ".join(VIDEO_SUFFIXES),
    )
    add(
        "--confidence-threshold",
        type=_probability,
        default=0.5,
        metavar="SCORE",
        help="draw instances with at least this score (default: %(default)s)",
    )
    add("--limit", type=_positive, metavar="N", help="use only the first N images or frames")
    add(
        "--montage",
        type=_picture_file,
        metavar="FILE",
        help="also arrange all pictures on one sheet",
    )
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write what is drawn to this file, in COCO's format of results",
    )
    # overrides in the form of Detectron2's demo
    add("--opts", nargs="+", default=[], help=argparse.SUPPRESS)
    return parser


def _probability(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _picture_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text} does not end in {' '.join(PICTURE_SUFFIXES)}")
    return path


def dataset_images(predictor: LazyPredictor) -> tuple[dict[Path, int | str], Metadata]:
    """Return the image files of the config's test data set with their ids, and its metadata.

    Raises:
        ValueError: it names none, or the data set cannot be read.
    """
    try:
        names = register_test_data(deepcopy(predictor.cfg))
        for name in names:
            if name not in DatasetCatalog:
                raise ValueError(
                    f"no data set is registered as {name!r} (a portable folder holds no data)"
                )
            check_downloaded(name)
        records = [record for name in names for record in DatasetCatalog.get(name)]
    except (OSError, ValueError) as error:
        raise ValueError(f"the config's test data cannot be read, give --input: {error}") from error
    if not records:
        raise ValueError("the config names no test data, so there are no images; give --input")
    images = {
        Path(record["file_name"]): record.get("image_id", index + 1)
        for index, record in enumerate(records)
    }
    return images, MetadataCatalog.get(names[0])


def picture_paths(images: Sequence[Path], folder: Path) -> list[Path]:
    """Return the path of each picture; ``folder`` mirrors the folders of the images.

    Raises:
        ValueError: a picture would replace an input image.
    """
    absolute = [Path(os.path.abspath(image)) for image in images]
    common = os.path.commonpath([image.parent for image in absolute])
    paths = []
    for image in absolute:
        path = folder / image.relative_to(common)
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            path = path.with_name(path.name + ".png")
        if path.resolve() == image.resolve():
            raise ValueError(
                f"{path} would be overwritten by its own picture; choose another --output"
            )
        paths.append(path)
    return paths


def _is_drawn_as_instances(prediction: Mapping[str, Any]) -> bool:
    return "instances" in prediction and "panoptic_seg" not in prediction


def run(args: argparse.Namespace) -> list[Path]:
    """Predict and draw every image.

    Returns:
        The images that could not be read.

    Raises:
        ValueError, TypeError, OSError: nothing could be done; the message says why.
    """
    images = find_images(args.input)
    predictor = LazyPredictor(args.config_file, args.weights, [*args.overrides, *args.opts])
    named, metadata = {image: index + 1 for index, image in enumerate(images)}, predictor.metadata
    if not named:
        named, metadata = dataset_images(predictor)
    images = list(named)[: args.limit]
    pictures = picture_paths(images, args.output)
    args.output.mkdir(parents=True, exist_ok=True)
    for file in filter(None, (args.json, args.montage)):
        check_writable(file)
    unreadable, drawn, count, kind = [], [], 0, "instances"
    results = []
    with logging_redirect_tqdm(loggers=[logging.getLogger("vit_adapter")]):
        for image_path, picture_path in zip(tqdm(images, unit="image"), pictures, strict=True):
            try:
                image = read_image(image_path, predictor.image_format)
                prediction = predictor(image)
            except (OSError, ValueError) as error:
                logger.error("%s is skipped: %s", image_path, error)
                unreadable.append(image_path)
                continue
            picture, found = draw_prediction(
                image, prediction, predictor.metadata, args.confidence_threshold
            )
            save_picture(picture, picture_path)
            results += results_of(args, metadata, prediction, named[image_path], image_path)
            drawn.append(picture_path)
            count += found
            kind = "instances" if _is_drawn_as_instances(prediction) else "segments"
    write_results(args.json, results, metadata)
    logger.info("%d %s on %d pictures in %s", count, kind, len(drawn), args.output)
    if args.montage and drawn:  # last, because a sheet can be too large
        sheet = montage([Image.open(path).convert("RGB") for path in drawn])
        save_picture(sheet, args.montage)
    return unreadable


def results_of(
    args: argparse.Namespace,
    metadata: Metadata,
    prediction: Mapping[str, Any],
    image_id: int | str,
    file: Path,
) -> list[dict[str, Any]]:
    """Return what ``--json`` writes about a prediction; nothing without ``--json``."""
    if args.json is None:
        return []
    threshold, name = args.confidence_threshold, str(file)
    return coco_results(prediction, metadata, threshold, image_id=image_id, file_name=name)


def write_results(
    path: Path | None, results: Sequence[Mapping[str, Any]], metadata: Metadata
) -> None:
    """Write a JSON file, whole or not at all; nothing without a path. Its folder must exist."""
    if path is None:
        return
    if not any(metadata.get(f"{kind}_dataset_id_to_contiguous_id") for kind in ("thing", "stuff")):
        logger.warning(
            "%s: category_id is the index of the class, from 0, as no ids of the data are known.",
            path,
        )
    with atomic_open(path) as stream:
        json.dump(results, stream)
        stream.write("\n")


def check_takes_frames(predictor: LazyPredictor) -> None:
    """Refuse a model of images that are read as stored: frames have 8-bit colours.

    Raises:
        ValueError: it is one. Even with three channels, nobody knows which colours and which range
            its training images have.
    """
    if isinstance(predictor.image_format, int):
        raise ValueError(
            f"the model takes images of {predictor.image_format} channels with the values of their "
            "files (model.input_channels), but a video or camera gives 8-bit colours; save the "
            "frames as images like those of the training, and give them as --input"
        )


def run_video(args: argparse.Namespace) -> None:
    """Predict and draw every frame of a video; its sound is left out.

    Raises:
        ValueError, TypeError, OSError: no video was written; the message says why.
    """
    if args.input or args.montage:
        raise ValueError("--video cannot be combined with --input or --montage")
    video = VideoReader(args.video)
    if args.output.exists() and args.output.samefile(args.video):
        raise ValueError(f"{args.output} is the input; choose another --output")
    if args.output.is_dir():
        raise ValueError(f"{args.output} is a folder; with --video, --output must be a file")
    VideoWriter(args.output, video.fps)  # checks the ending before the model is built
    predictor = LazyPredictor(args.config_file, args.weights, [*args.overrides, *args.opts])
    check_takes_frames(predictor)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if args.json:
        check_writable(args.json)
    total = min(filter(None, (args.limit, video.num_frames)), default=None)
    count, results = 0, []
    with atomic_file(args.output) as unfinished, VideoWriter(unfinished, video.fps) as writer:
        for frame in tqdm(islice(video, args.limit), total=total, unit="frame"):
            prediction = predictor(frame)
            picture, _ = draw_prediction(
                frame, prediction, predictor.metadata, args.confidence_threshold
            )
            writer.write(np.asarray(picture)[:, :, ::-1])
            count += 1
            results += results_of(args, predictor.metadata, prediction, count, args.video)
    write_results(args.json, results, predictor.metadata)
    logger.info("%d frames in %s", count, args.output)


def run_camera(args: argparse.Namespace) -> None:
    """Predict and draw frames of a camera, show them if there is a display, and write a video.

    Frames that come during a prediction are skipped. The video repeats others in their place, so it
    is as long as the recording.

    Raises:
        ValueError, TypeError, OSError: no video was written; the message says why.
    """
    if args.input or args.montage or args.json or args.video:
        raise ValueError("--camera cannot be combined with --input, --video, --montage or --json")
    camera = CameraReader(args.camera)
    VideoWriter(args.output, camera.fps)  # checks the ending before the model is built
    predictor = LazyPredictor(args.config_file, args.weights, [*args.overrides, *args.opts])
    check_takes_frames(predictor)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    count = written = 0
    with atomic_file(args.output) as unfinished, VideoWriter(unfinished, camera.fps) as writer:
        try:
            for seconds, frame in islice(camera, args.limit):
                picture, _ = draw_prediction(
                    frame, predictor(frame), predictor.metadata, args.confidence_threshold
                )
                drawn = np.asarray(picture)[:, :, ::-1]
                repeats = max(1, round(seconds * camera.fps) - written)
                for _ in range(repeats):
                    writer.write(drawn)
                written += repeats
                count += 1
                _show(drawn)
        except KeyboardInterrupt:
            if not count:
                raise
    logger.info("%d frames in %s", count, args.output)


def _show(picture: np.ndarray) -> None:
    """Show a picture (H, W, 3), BGR, in a window, if there is a display and OpenCV has windows."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    with contextlib.suppress(cv2.error):  # the headless build of OpenCV
        cv2.imshow("vit_adapter", picture)
        cv2.waitKey(1)


@reports_errors(logger, OSError, ValueError, TypeError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    if args.camera is not None:
        unreadable = run_camera(args)
    else:
        unreadable = run(args) if args.video is None else run_video(args)
    if unreadable:
        logger.error("%d images could not be drawn; see above", len(unreadable))
    return 1 if unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
