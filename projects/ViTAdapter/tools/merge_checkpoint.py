"""Make a checkpoint that needs nothing else: LoRA is merged into the weights it corrects.

    merge_checkpoint.py output/model_final.pth merged.pth --config-file output

The result has the weights of the whole model, also if IN holds only the trained part; it fits the
config with ``lora_rank=0``. Exit status: 0 written, 2 nothing was written.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import setup_logger

from vit_adapter import LazyPredictor
from vit_adapter.backbone.lora import LoRALinear, merged_state_dict
from vit_adapter.checkpoint import atomic_save
from vit_adapter.config.arguments import add_config_arguments
from vit_adapter.config.loading import load_config
from vit_adapter.utils.output_file import check_output_file

logger = logging.getLogger("vit_adapter.merge_checkpoint")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Make a checkpoint that needs nothing else: LoRA is merged into the weights.",
        epilog="exit status: 0 written, 2 nothing was written",
    )
    parser.add_argument(
        "input", type=Path, metavar="IN", help="the checkpoint, which is not changed"
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="a .pth file")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    add_config_arguments(
        parser.add_argument_group("the config that the checkpoint was trained with")
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Merge one file.

    Raises:
        ValueError, OSError: nothing was written; the message says why.
    """
    check_output_file(args.input, args.output, suffixes=(".pth",), force=args.force)
    cfg = load_config(args.config_file, args.overrides)
    cfg.test, cfg.train.device = None, "cpu"  # the model without wrappers
    model = LazyPredictor(cfg, args.input).model
    merged = merged_state_dict(model)
    atomic_save({"model": merged}, args.output)
    layers = sum(isinstance(module, LoRALinear) for module in model.modules())
    print(f"LoRA merged into {layers} layers; {len(merged)} tensors written to {args.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    setup_logger(name="vit_adapter")
    try:
        run(args)
    except (OSError, ValueError, TypeError) as error:
        logger.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
