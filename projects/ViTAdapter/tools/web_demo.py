"""Serve a page to try models: upload an image, choose a model, see what it finds.

    web_demo.py output/nuclei output/camvid
    web_demo.py --model coco/mask_rcnn_vit_adapter_tiny_deit_3x model_final.pth

The page is at http://127.0.0.1:7860, for this machine alone, and loads nothing from elsewhere. It
needs Gradio. Exit status: 0 stopped by Ctrl-C, 2 the page could not start.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402

from vit_adapter.utils.command_line import reports_errors
from vit_adapter.web import Models, Source

logger = logging.getLogger("vit_adapter.web_demo")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Serve a page that shows what models find in uploaded images.",
        epilog="exit status: 0 stopped by Ctrl-C, 2 the page could not start",
    )
    add = parser.add_argument
    add(
        "folders",
        nargs="*",
        metavar="FOLDER",
        help="a folder with a trained model, such as the output folder of a training",
    )
    add(
        "--model",
        nargs=2,
        action="append",
        default=[],
        metavar=("CONFIG", "WEIGHTS"),
        help="a config file or a name in the model zoo, and a checkpoint; can be repeated",
    )
    add("--opts", nargs="+", default=[], metavar="key=value", help="overrides for all configs")
    add("--host", default="127.0.0.1", help="address to serve at (default: %(default)s)")
    add("--port", type=int, default=7860, help="port to serve at (default: %(default)s)")
    for name, kind, default, text in (
        ("--keep", int, 2, "models kept in memory"),
        ("--max-megabytes", int, 20, "largest file that is accepted"),
        ("--max-megapixels", float, 16, "largest image that is accepted"),
    ):
        add(name, type=kind, default=default, metavar="N", help=f"{text} (default: {default})")
    return parser


def serve(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        ValueError, TypeError, OSError: it could not start; the message says why.
    """
    try:
        from vit_adapter.web.page import Page
    except ImportError as error:
        raise ValueError(f"the page needs Gradio ({error}); pip install gradio") from error
    sources = [*map(Source, args.folders), *(Source(*pair) for pair in args.model)]
    models = Models(sources, overrides=args.opts, keep=args.keep)
    page = Page(models, max_megapixels=args.max_megapixels)
    url = page.launch(host=args.host, port=args.port, max_megabytes=args.max_megabytes)
    logger.info("The page is at %s (Ctrl-C stops it)", url)
    page.wait()


@reports_errors(logger, OSError, ValueError, TypeError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    serve(build_parser().parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
