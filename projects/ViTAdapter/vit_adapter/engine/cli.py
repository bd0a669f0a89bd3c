"""The command line of ``train_net.py``."""

import argparse
from collections.abc import Sequence

from vit_adapter.engine.config import UsageError, load_config, resolve_device
from vit_adapter.engine.processes import ProcessLayout, launch
from vit_adapter.engine.run import run

__all__ = ["build_parser", "main"]

_EXAMPLES = """examples:
  train on one device:           %(prog)s --config-file configs/quick_start/NAME.py
  train on 8 GPUs:               %(prog)s --config-file CONFIG --num-gpus 8
  train on 2 CPU processes:      %(prog)s --config-file CONFIG --num-gpus 2 train.device=cpu
  continue an interrupted run:   %(prog)s --config-file CONFIG --resume
  evaluate a checkpoint:         %(prog)s --config-file CONFIG --eval-only \\
                                 train.init_checkpoint=FILE
  your own COCO-format data:     %(prog)s --config-file CONFIG data.train_json=a.json \\
                                 data.train_images=a/ data.val_json=b.json data.val_images=b/ \\
                                 train.epochs=12 train.auto_scale_lr=True
  your own label pictures:       %(prog)s --config-file CONFIG data.train_labels=al/ \\
                                 data.train_images=a/ data.val_labels=bl/ data.val_images=b/ \\
                                 data.classes=classes.json
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; what remains are ``key=value`` overrides (``overrides``)."""
    parser = argparse.ArgumentParser(
        description="Train or evaluate a detector or segmentor with a ViT-Adapter backbone.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="LazyConfig file")
    parser.add_argument("--resume", action="store_true",
                        help="continue from the last checkpoint in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1,
                        help="processes on this machine: one per GPU, or that many on the CPU")
    parser.add_argument("--num-machines", type=int, default=1, help="machines that take part")
    parser.add_argument("--machine-rank", type=int, default=0, help="which of them this is, from 0")
    parser.add_argument("--dist-url", default="auto",
                        help="tcp://HOST:PORT where the processes meet; auto: a free local port")
    parser.add_argument("overrides", nargs="*", metavar="key=value",
                        help="overrides of the config, such as train.epochs=12")
    return parser


def main(command_line: Sequence[str] | None = None) -> None:
    """Parse the command line and run it in as many processes as it asks for.

    A mistake in the command line ends with a message and exit status 2, without a traceback; one
    that shows only in the processes of a run of several ends with their traceback.

    Args:
        command_line: arguments without the program's name; None for those of the process.
    """
    parser = build_parser()
    arguments = parser.parse_intermixed_args(command_line)
    try:
        cfg = load_config(arguments.config_file, arguments.overrides)
        device = resolve_device(cfg)
        layout = ProcessLayout(
            device_type=device.type,
            processes_per_machine=arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
        )
        if device.index is not None and layout.world_size > 1:
            raise UsageError(
                f"train.device={device} is one device for {layout.world_size} processes; use "
                f"train.device={device.type} and choose GPUs by CUDA_VISIBLE_DEVICES."
            )
        launch(run, layout, (arguments,))
    except UsageError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
