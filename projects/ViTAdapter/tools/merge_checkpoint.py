"""Make a checkpoint of weights alone, which needs nothing else: LoRA is merged into them.

    merge_checkpoint.py output/model_best.pth weights.safetensors --config-file output

The result has the weights of the whole model, also if IN holds only the trained part; it fits the
config with ``lora_rank=0``. ``train.model_ema.use_ema_weights_for_eval_only=True`` takes their
moving average (EMA) instead. Exit status: 0 written, 2 nothing was written.
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
from vit_adapter.backbone.lora import LoRALinear, merged_state_dict
from vit_adapter.checkpoint import atomic_save
from vit_adapter.checkpoint.large import save_safetensors
from vit_adapter.config.arguments import add_config_arguments
from vit_adapter.config.loading import load_config
from vit_adapter.utils.output_file import check_output_file

SUFFIXES = (".pth", ".safetensors")
from vit_adapter.utils.command_line import reports_errors

logger = logging.getLogger("vit_adapter.merge_checkpoint")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Make a checkpoint of weights alone, with LoRA merged into them.",
        epilog="exit status: 0 written, 2 nothing was written",
    )
    parser.add_argument(
        "input", type=Path, metavar="IN", help="the checkpoint, which is not changed"
    )
    parser.add_argument("output", type=Path, metavar="OUT", help=" or ".join(SUFFIXES))
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
    check_output_file(args.input, args.output, suffixes=SUFFIXES, force=args.force)
    cfg = load_config(args.config_file, args.overrides)
    cfg.test, cfg.train.device = None, "cpu"  # the model without wrappers
    model = LazyPredictor(cfg, args.input).model
    merged = merged_state_dict(model)
    if args.output.suffix == ".safetensors":
        save_safetensors(merged, args.output, {"format": "pt"})
    else:
        atomic_save({"model": merged}, args.output)
    layers = sum(isinstance(module, LoRALinear) for module in model.modules())
    print(f"LoRA merged into {layers} layers; {len(merged)} tensors written to {args.output}")


@reports_errors(logger, OSError, ValueError, TypeError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    run(build_parser().parse_intermixed_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
