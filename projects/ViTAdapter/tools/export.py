"""Export a model to a file that other programs run without this project.

    export.py --config-file output --output model.onnx --size 512 512 --dynamic-batch
    export.py --config-file coco/mask_rcnn_vit_adapter_tiny_deit_3x --weights model_final.pth \
        --output model.pt2 --format aoti --size 800 1344

The file is run on random images and compared with the model before it appears under its name. The
JSON beside it, model.onnx.json, says how images are prepared and what the outputs mean. Exit
status: 0 written, 2 nothing was written.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402

from vit_adapter import LazyPredictor
from vit_adapter.config.arguments import add_config_arguments
from vit_adapter.config.errors import UsageError
from vit_adapter.config.loading import load_config
from vit_adapter.config.weights import require_weights
from vit_adapter.export.description import describe
from vit_adapter.export.evaluation import FileModel, check_data, config_with_data
from vit_adapter.export.export import description_path, export_model
from vit_adapter.export.formats import FORMATS, Run
from vit_adapter.export.models import exportable
from vit_adapter.export.random_images import pixel_ranges
from vit_adapter.export.shapes import ImageShapes
from vit_adapter.utils.command_line import reports_errors
from vit_adapter.utils.output_file import check_output_file

DEFAULT_SIZE = (512, 512)

logger = logging.getLogger("vit_adapter.export")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Export a model to a file that other programs run without this project.",
        epilog="exit status: 0 written, 2 nothing was written",
    )
    add = parser.add_argument
    add_config_arguments(parser)
    add(
        "--weights",
        help="checkpoint of the whole model (default: the config's train.init_checkpoint)",
    )
    add("--output", required=True, type=Path, metavar="OUT", help=".pt2 or .onnx")
    add(
        "--format",
        choices=FORMATS,
        help="pt2: torch.export; onnx; aoti: compiled for this processor by AOTInductor, also .pt2 "
        "(default: by the end of OUT)",
    )
    add("--size", nargs=2, type=int, metavar=("H", "W"), help="of the images (default: 512 512)")
    add("--batch", type=int, default=1, metavar="N", help="images at once (default: %(default)s)")
    add("--dynamic-batch", action="store_true", help="accept any number of images")
    add("--dynamic-size", action="store_true", help="accept all sides that are multiples of 32")
    add("--backbone-only", action="store_true", help="the outputs are the maps of the backbone")
    add(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the file on random images, at two sizes and batches where these vary",
    )
    add(
        "--check-data",
        action="store_true",
        help="also evaluate the file on the config's test data, beside the model",
    )
    add("--force", action="store_true", help="replace OUT and its JSON if they exist")
    return parser


def run(args: argparse.Namespace) -> None:
    """Export the model of a config.

    Raises:
        ValueError, TypeError, OSError: nothing was written; the message says why.
    """
    if args.backbone_only and args.check_data:
        raise UsageError(
            "--check-data evaluates predictions, but --backbone-only exports feature maps; leave "
            "out one of them"
        )
    name = args.format or args.output.suffix.removeprefix(".")
    suffix = FORMATS[name].suffix if name in FORMATS else " or ".join([".pt2", ".onnx"])
    check_output_file(Path(), args.output, suffixes=(suffix,), force=args.force)
    check_output_file(Path(), description_path(args.output), suffixes=(".json",), force=args.force)
    cfg = load_config(args.config_file, [*args.overrides, "train.device=cpu"])
    require_weights(cfg, args.weights)
    predictor = LazyPredictor(cfg, args.weights)
    core = exportable(predictor.unwrapped_model, backbone_only=args.backbone_only)
    shapes = ImageShapes(
        args.batch,
        *(args.size or DEFAULT_SIZE),
        ranges=pixel_ranges(predictor.cfg, core.model),
        dynamic_batch=args.dynamic_batch,
        dynamic_size=args.dynamic_size,
        shortest_side=core.shortest_side,
    )
    metadata = predictor.metadata
    classes = metadata.get("stuff_classes") or metadata.get("thing_classes") or []
    description = describe(predictor.cfg, core, shapes, file_format=name, classes=classes)
    if args.size is None and not args.dynamic_size:
        logger.warning(
            "Without --size, the file is for images of %d x %d pixels (height x width). The config "
            "resizes test images by %s; 'test' in the JSON says whether it cuts them into windows.",
            *DEFAULT_SIZE,
            description["input"]["resize"],
        )
    data = config_with_data(predictor.cfg) if args.check_data else None

    def on_data(run_file: Run) -> object:
        return check_data(data, core.model, FileModel(core, run_file, shapes))

    export_model(
        core,
        shapes,
        args.output,
        file_format=name,
        description=description,
        check=args.check,
        check_data=on_data if data else None,
    )
    print(f"Written: {args.output}, for images {shapes.described()}")


@reports_errors(logger, OSError, ValueError, TypeError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    run(build_parser().parse_intermixed_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
