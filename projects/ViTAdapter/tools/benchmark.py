"""Measure the speed, the memory and the operations of models on this machine.

    benchmark.py coco/mask_rcnn_vit_adapter_tiny_deit_3x --compare
    benchmark.py output --variants float32 bf16 bf16,compiled --sizes 512 640x480

Each model is built from its config and called with random images, as in testing but without
windows, tiles and several views. For every size, batch size and variant the program gives
images a second, latency percentiles and peak memory, and where the time goes. Models that are
compared, and all variants of a model, take turns, so that disturbances of the machine affect them
all. Exit status: 0 all measured, 1 some variants failed (the table says how), 2 a model was not
measured at all.
"""

import argparse
import itertools
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402
import torch
from omegaconf import OmegaConf

from vit_adapter.benchmark.machine import describe_run
from vit_adapter.benchmark.measurement import Record, measure_together
from vit_adapter.benchmark.models import build_subject, find_baselines
from vit_adapter.benchmark.report import to_markdown, to_picture
from vit_adapter.benchmark.variants import (
    VARIANT_PRECISIONS,
    Variant,
    check_variants,
    parse_variant,
)
from vit_adapter.config.device import resolve_device
from vit_adapter.config.errors import UsageError
from vit_adapter.utils.command_line import reports_errors

logger = logging.getLogger("vit_adapter.benchmark")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Measure speed, memory and operations of models on this machine.",
        epilog="exit status: 0 all measured, 1 some variants failed, 2 a model was not measured",
    )
    add = parser.add_argument
    add(
        "configs",
        nargs="+",
        metavar="CONFIG",
        help="config files, names in the model zoo, output folders of training runs; and "
        "key=value, config overrides for all of them",
    )
    add(
        "--weights", help="checkpoint of the whole model (default: the config's, or random weights)"
    )
    add(
        "--sizes",
        nargs="+",
        type=_size,
        default=[(512, 512)],
        metavar="SIZE",
        help="of the images in pixels: a side, or HEIGHTxWIDTH (default: 512)",
    )
    add("--batch-sizes", nargs="+", type=_positive, default=[1], metavar="N", help="(default: 1)")
    add(
        "--variants",
        nargs="+",
        type=_variant,
        default=[Variant()],
        metavar="VARIANT",
        help=f"a precision, {', '.join(VARIANT_PRECISIONS)}, alone or with the core of "
        "the model by torch.compile or as a CUDA graph, such as bf16,compiled or bf16,graph "
        "(default: float32)",
    )
    add(
        "--compare",
        action="store_true",
        help="also measure the operator in plain PyTorch, and the plain ViT and the ViTDet of the "
        "model zoo with the same head",
    )
    add("--train", action="store_true", help="measure training steps instead of inference")
    add("--device", default="auto", help="cpu, cuda or auto, the GPU if there is one (default)")
    add("--threads", type=_positive, metavar="N", help="of the processor (default: PyTorch's)")
    add("--repeats", type=_positive, default=10, metavar="N", help="timed runs (default: 10)")
    add(
        "--profile",
        action="store_true",
        help="also write to the file of --json which operations take longest, and their number",
    )
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add("--markdown", type=Path, metavar="FILE", help="write the tables, which are also printed")
    add("--picture", type=Path, metavar="FILE", help="write a chart, such as benchmark.png")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _size(text: str) -> tuple[int, int]:
    height, separator, width = text.partition("x")
    try:
        return _positive(height), _positive(width if separator else height)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size in pixels, such as 512 or 640x480"
        ) from error


def _variant(text: str) -> Variant:
    try:
        return parse_variant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> list[Record]:
    """Measure all models, and write the files after each.

    Returns:
        The records of all variants.

    Raises:
        ValueError, TypeError, OSError: a model was not measured; the message says why.
    """
    configs = [text for text in args.configs if "=" not in text]
    overrides = [text for text in args.configs if "=" in text]
    if not configs:
        raise UsageError(f"got only overrides, {' '.join(overrides)}; expected CONFIG...")
    if args.weights and (len(configs) > 1 or args.compare):
        raise UsageError("--weights belong to one model: give one CONFIG, without --compare.")
    if args.profile and not args.json:
        raise UsageError("--profile writes to the file of --json: give both.")
    for file in filter(None, (args.json, args.markdown, args.picture)):
        if not file.absolute().parent.is_dir():
            raise UsageError(f"{file} cannot be written: its folder does not exist; make it first.")
    device = resolve_device(OmegaConf.create({"train": {"device": args.device}}))
    check_variants(args.variants, device=device, training=args.train)
    variants = list(args.variants)
    if args.compare:
        variants += [replace(v, plain_op=True) for v in args.variants if v.mode == "eager"]
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = describe_run(device)
    print(machine["text"], flush=True)
    records: list[Record] = []
    for config in configs:
        names = [config, *(find_baselines(config) if args.compare else ())]
        overrides_of_all = [*overrides, f"train.device={device}"]
        subjects = [
            build_subject(name, weights=args.weights, overrides=overrides_of_all) for name in names
        ]
        for size, batch_size in itertools.product(args.sizes, args.batch_sizes):
            records += measure_together(
                subjects,
                variants,
                batch_size=batch_size,
                size=size,
                repeats=args.repeats,
                training=args.train,
                profile=args.profile,
            )
            logger.info("measured %s at %dx%d, batch %d", ", ".join(names), *size, batch_size)
            _write(args, machine, records)
    print(to_markdown(machine["text"], records))
    return records


def _write(args: argparse.Namespace, machine: dict, records: Sequence[Record]) -> None:
    if args.json:
        content = {"machine": machine, "records": records}
        args.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(to_markdown(machine["text"], records), encoding="utf-8")
    if args.picture:
        to_picture(machine["text"], records, args.picture)


@reports_errors(logger, OSError, ValueError, TypeError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    records = run(build_parser().parse_intermixed_args(argv))
    failed = sum("error" in record for record in records)
    if failed:
        logger.error("%d of %d variants failed; see the table", failed, len(records))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
