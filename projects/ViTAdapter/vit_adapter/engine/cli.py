"""The command line of ``train_net.py``."""

import argparse
from collections.abc import Sequence

from omegaconf import DictConfig

from vit_adapter.config.arguments import add_config_arguments
from vit_adapter.config.errors import UsageError
from vit_adapter.config.loading import load_config
from vit_adapter.config.portable import stored_metadata
from vit_adapter.engine.dry_run import dry_run
from vit_adapter.engine.periods import check_periods
from vit_adapter.engine.process_plan import plan_processes
from vit_adapter.engine.processes import launch
from vit_adapter.engine.run import run
from vit_adapter.engine.trackers import check_trackers

__all__ = ["build_parser", "main"]

_EXAMPLES = """examples:
  train on one device:           %(prog)s --config-file configs/quick_start/NAME.py
  train on 8 GPUs:               %(prog)s --config-file CONFIG --num-gpus 8
  train on 2 CPU processes:      %(prog)s --config-file CONFIG --num-gpus 2 train.device=cpu
  train with torchrun:           torchrun --nproc_per_node 8 %(prog)s --config-file CONFIG
  check a run before it starts:  %(prog)s --config-file CONFIG --dry-run
  continue an interrupted run:   %(prog)s --config-file CONFIG --resume
  evaluate a checkpoint:         %(prog)s --config-file CONFIG --eval-only \\
                                 train.init_checkpoint=FILE
  your own COCO-format data:     %(prog)s --config-file CONFIG data.train_json=a.json \\
                                 data.train_images=a/ data.val_json=b.json data.val_images=b/ \\
                                 train.epochs=12 train.auto_scale_lr=True
  your own label maps:           %(prog)s --config-file CONFIG data.train_labels=al/ \\
                                 data.train_images=a/ data.val_labels=bl/ data.val_images=b/ \\
                                 data.classes=classes.json
  your own panoptic data:        %(prog)s --config-file CONFIG data.train_panoptic_json=a.json \\
                                 data.train_panoptic_pngs=am/ data.train_images=a/ \\
                                 data.val_panoptic_json=b.json data.val_panoptic_pngs=bm/ \\
                                 data.val_images=b/
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its positional arguments are ``key=value`` overrides."""
    parser = argparse.ArgumentParser(
        description="Train or evaluate a detector or segmentor with a ViT-Adapter backbone.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in train.output_dir",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate without training")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the data and a few steps, report what the run needs, and train nothing; exit "
        "status: 0 ready to train, 1 problems found, 2 a mistake in the command line or config",
    )
    processes = parser.add_argument_group(
        "processes",
        "their number and how they find each other; not used with torchrun",
    )
    # No defaults here: ProcessLayout has them, and with torchrun none of these may be given.
    processes.add_argument(
        "--num-gpus",
        type=int,
        metavar="N",
        help="number of processes on this machine: one per GPU, or on the CPU (default: 1)",
    )
    processes.add_argument(
        "--num-machines", type=int, metavar="N", help="number of machines (default: 1)"
    )
    processes.add_argument(
        "--machine-rank",
        type=int,
        metavar="N",
        help="number of this machine, from 0 (default: 0)",
    )
    processes.add_argument(
        "--dist-url",
        metavar="URL",
        help="tcp://HOST:PORT where the processes meet; auto: a free local port (default: auto)",
    )
    return parser


def main(command_line: Sequence[str] | None = None) -> None:
    """Parse the command line and run it in the number of processes that it asks for.

    A mistake in the command line or the config ends the program with a message and exit status 2,
    without a traceback. A dry run ends it with exit status 0, or 1 if there are problems.

    Args:
        command_line: arguments without the program's name; None for those of this process.
    """
    parser = build_parser()
    arguments = parser.parse_intermixed_args(command_line)
    try:
        cfg = load_config(arguments.config_file, arguments.overrides)
        check_periods(cfg, training=not arguments.eval_only)
        if not arguments.eval_only:
            _check_trainable(cfg)
            check_trackers(cfg)
        processes = plan_processes(cfg, arguments)
        if arguments.dry_run:
            parser.exit(0 if dry_run(cfg, arguments, processes).is_ready else 1)
        launch(run, processes, (arguments,))
    except UsageError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def _check_trainable(cfg: DictConfig) -> None:
    """Raise a UsageError if a config is that of a portable folder."""
    if stored_metadata(cfg) is not None and "optimizer" not in cfg:
        raise UsageError(
            "a portable folder cannot be trained: it holds only what prediction and evaluation "
            "(--eval-only) need. To train its model further, give the config of its training and "
            "train.init_checkpoint=<the folder>/model.safetensors."
        )
