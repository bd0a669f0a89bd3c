"""Convert a checkpoint of the original ViT-Adapter code base into one for this project, or back.

    convert_checkpoint.py mask_rcnn_deit_adapter_tiny_fpn_3x_coco.pth.tar adapter_tiny.pth \
        --config-file coco/mask_rcnn_vit_adapter_tiny_deit_3x
    convert_checkpoint.py --reverse output/model_final.pth for_the_original.pth --tree detection
    convert_checkpoint.py dinov3_vit7b16_ade20k_m2f_head-bf307cb1.pth segmentor.pth \
        --backbone dinov3_vit7b16_pretrain_lvd1689m-a955f4ea.pth

Prints the new name of each tensor, and what the names do not show: how pixels are normalised and
how the ViT's tokens are added to the outputs. With ``--config-file``, both are compared with the
config, and every name and shape with its model. Exit status: 0 written, 2 nothing was written.
"""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open
from torch import Tensor, nn

from vit_adapter import ViTAdapter
from vit_adapter.backbone.lora import belongs_to_lora
from vit_adapter.backbone.pyramid_backbone import PyramidBackbone
from vit_adapter.checkpoint import load_checkpoint_file, load_strict
from vit_adapter.checkpoint.average import MODEL_EMA
from vit_adapter.checkpoint.files import extract_state_dict, load_state_dict_file
from vit_adapter.checkpoint.large import join_on_disk, save_safetensors
from vit_adapter.checkpoint.original import Conversion, convert, revert, take_moving_averages
from vit_adapter.checkpoint.original.config_text import PixelStatistics
from vit_adapter.checkpoint.original.dinov3_files import join_files, split_files
from vit_adapter.checkpoint.original.parts import without_part
from vit_adapter.checkpoint.original.provenance import (
    METADATA_KEY,
    TREES,
    Provenance,
    read_provenance,
    stored_provenance,
)
from vit_adapter.checkpoint.original.sizes import check_sizes, describe_sizes, read_sizes
from vit_adapter.checkpoint.trained_part import FIXED_WEIGHTS
from vit_adapter.config.arguments import add_config_arguments
from vit_adapter.config.loading import load_config
from vit_adapter.utils.atomic import atomic_file, atomic_save
from vit_adapter.utils.output_file import check_output_file

OURS_SUFFIXES = (".pth", ".safetensors")
THEIRS_SUFFIXES = (".pth", ".pth.tar")
from vit_adapter.utils.command_line import reports_errors

logger = logging.getLogger("vit_adapter.convert_checkpoint")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Convert a checkpoint of the original ViT-Adapter for this project, or back.",
        epilog="exit status: 0 written, 2 nothing was written",
    )
    add = parser.add_argument
    add("input", type=Path, metavar="IN", help="the checkpoint, which is not changed")
    add(
        "output",
        type=Path,
        metavar="OUT",
        help=f"{' or '.join(OURS_SUFFIXES)}; with --reverse {' or '.join(THEIRS_SUFFIXES)}",
    )
    add("--reverse", action="store_true", help="convert this project's names to the original's")
    add(
        "--tree",
        choices=TREES,
        help="origin of a backbone without heads, or the destination with --reverse; mask2former "
        "is the code of Mask2Former's authors",
    )
    add(
        "--backbone",
        type=Path,
        metavar="FILE",
        help="the file of the ViT of DINOv3's segmentor, which IN does not hold; with --reverse "
        "the file to write it to",
    )
    add("--ema", action="store_true", help="convert the moving averages (ema_*) of the weights")
    add("--force", action="store_true", help="replace OUT if it exists")
    add_config_arguments(parser.add_argument_group("the config that the checkpoint must fit"))
    return parser


def read(path: Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Read a file: first everything apart from the weights, then the weights.

    Raises:
        FileNotFoundError, vit_adapter.checkpoint.CheckpointFileError: see
            :func:`vit_adapter.checkpoint.load_state_dict_file`.
        ValueError: it needs other weights, or LoRA factors are not merged.
    """
    checkpoint = load_checkpoint_file(path, mapped=True)
    weights = extract_state_dict(checkpoint, str(path))
    only_trained = FIXED_WEIGHTS in checkpoint
    if only_trained or any(map(belongs_to_lora, weights)):
        content = "only the trained part of a model" if only_trained else "LoRA factors"
        raise ValueError(
            f"{path} holds {content}; make a complete checkpoint of it first, with "
            "tools/merge_checkpoint.py, and convert that one"
        )
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
        return ({METADATA_KEY: json.loads(text)} if text else {}), weights
    return checkpoint, weights


def print_table(conversion: Conversion) -> None:
    """Print old name, new name and new shape of every tensor, and what was left out or added."""
    width = max(map(len, conversion.names), default=0)
    new_width = max(map(len, conversion.names.values()), default=0)
    for old, new in conversion.names.items():
        shape = list(conversion.state_dict[without_part(new)].shape)
        print(f"{old:{width}}  ->  {new:{new_width}}  {shape}")
    for old, reason in conversion.dropped.items():
        print(f"{old:{width}}  left out: {reason}")
    for new, reason in conversion.made.items():
        shape = list(conversion.state_dict[new].shape)
        print(f"{'(added)':{width}}  ->  {new:{new_width}}  {shape}  {reason}")
    numbers = sum(tensor.numel() for tensor in conversion.state_dict.values())
    print(
        f"{len(conversion.names)} tensors with {numbers:,} numbers renamed, "
        f"{len(conversion.dropped)} left out, {len(conversion.made)} added"
    )


def print_provenance(provenance: Provenance) -> None:
    """Print what the names of the weights do not show."""
    known = "" if provenance.pixels_are_known else " (assumed)"
    print(f"tree: {provenance.tree}")
    print(f"vit_feature_fusion: {provenance.vit_feature_fusion or 'does not apply'}")
    print(f"pixels: {provenance.pixels}{known}")
    for note in provenance.notes:
        print(f"note: {note}")


def check_config(
    cfg: DictConfig, weights: Mapping[str, Tensor], provenance: Provenance
) -> Provenance:
    """Compare weights of this project and their provenance with a config.

    Returns:
        The provenance, with the config's pixel statistics if the checkpoint states none.

    Raises:
        vit_adapter.checkpoint.CheckpointMismatchError: names or shapes do not fit.
        ValueError: the model would compute something different with these weights.
    """
    with torch.device("meta"):
        model: nn.Module = instantiate(cfg.model)
    backbones = [part for part in model.modules() if isinstance(part, PyramidBackbone)]
    of_part = {name: tensor.to("meta") for name, tensor in weights.items()}
    if provenance.tree == "mask2former":
        of_head = {n.removeprefix("head."): x for n, x in of_part.items() if n.startswith("head.")}
        load_strict(model.head, of_head)
        backbones = []  # the weights are those of a head
    else:
        check_sizes(weights, model.state_dict())
        whole = any(name.startswith("backbone.") for name in weights)
        load_strict(model if whole or len(backbones) != 1 else backbones[0], of_part)
    for backbone in backbones:
        fusion = backbone.vit_feature_fusion if isinstance(backbone, ViTAdapter) else None
        if fusion != provenance.vit_feature_fusion:
            raise ValueError(
                f"the config has vit_feature_fusion={fusion!r}, but the weights are for "
                f"{provenance.vit_feature_fusion!r}: they would load, but compute wrong features"
            )
    pixels = pixels_of(cfg)
    if pixels == provenance.pixels:
        return provenance
    if provenance.pixels_are_known:
        raise ValueError(
            f"the config normalises pixels with {pixels}, but the weights need "
            f"{provenance.pixels}; change model.pixel_mean, model.pixel_std and the image_format "
            "of the mappers"
        )
    return replace(provenance, pixels=pixels, notes=("pixel statistics are from the config",))


def pixels_of(cfg: DictConfig) -> PixelStatistics:
    """Return how the model of a config normalises its pixels.

    Raises:
        ValueError: the config does not say so.
    """
    mean, std = (OmegaConf.select(cfg, f"model.{key}") for key in ("pixel_mean", "pixel_std"))
    if mean is None or std is None:
        raise ValueError("the config has no model.pixel_mean and model.pixel_std")
    channels = OmegaConf.select(cfg, "dataloader.test.mapper.image_format", default="RGB")
    return PixelStatistics(tuple(map(float, mean)), tuple(map(float, std)), channels)


def write(path: Path, weights: Mapping[str, Tensor], provenance: Provenance, reverse: bool) -> None:
    """Write the weights and their provenance, atomically."""
    metadata = provenance.as_metadata()
    if reverse and provenance.tree == "dinov3":  # whose files hold nothing else
        atomic_save(dict(weights), path)
    elif reverse:
        atomic_save({"state_dict": dict(weights), "meta": {METADATA_KEY: metadata}}, path)
    elif path.suffix == ".safetensors":
        save_safetensors(weights, path, {"format": "pt", METADATA_KEY: json.dumps(metadata)})
    else:
        atomic_save({"model": dict(weights), METADATA_KEY: metadata}, path)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse files that cannot or should not be written, and options that contradict each other.

    Raises:
        ValueError, FileExistsError, FileNotFoundError: the message says why.
    """
    options = dict(suffixes=THEIRS_SUFFIXES if args.reverse else OURS_SUFFIXES, force=args.force)
    check_output_file(args.input, args.output, **options)
    if args.backbone and args.reverse:
        check_output_file(args.input, args.backbone, **options)
    if args.backbone and args.backbone.resolve() == args.output.resolve():
        raise ValueError(f"OUT and the file of --backbone are the same, {args.output}")
    if args.overrides and not args.config_file:
        raise ValueError(
            f"{args.overrides[0]!r} overrides a config, but none is given; add --config-file CONFIG"
        )
    if args.reverse and args.ema:
        raise ValueError("--ema is for the original's checkpoints and does not go with --reverse")


def read_theirs(args: argparse.Namespace, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the original's weights to convert: with the ViT's file, and as moving averages."""
    vit = load_state_dict_file(args.backbone, mapped=True) if args.backbone else None
    weights = join_files(weights, vit)
    return take_moving_averages(weights) if args.ema else weights


def run(args: argparse.Namespace) -> None:
    """Convert one file.

    Raises:
        ValueError, OSError: nothing was written; the message says why.
    """
    check_arguments(args)
    cfg = load_config(args.config_file, args.overrides) if args.config_file else None
    stored, weights = read(args.input)
    join = partial(join_on_disk, folder=args.output.parent)
    if args.reverse:
        left = stored_provenance(stored)
        conversion = revert(weights, tree=left.tree if left else args.tree, join=join)
        ours, theirs = weights, conversion.state_dict
    else:
        theirs = read_theirs(args, weights)
        conversion = convert(theirs, join=join)
        ours = conversion.state_dict
    provenance = read_provenance(stored, theirs, args.tree)
    if cfg is not None:
        provenance = check_config(cfg, ours, provenance)
    print_table(conversion)
    if sizes := read_sizes(ours):
        print(f"sizes: {describe_sizes(sizes)}")
    print_provenance(provenance)
    if any(name.startswith("ema_") for name in conversion.dropped):
        print("note: the moving averages (ema_*) are left out; --ema converts them instead")
    if stored.get(MODEL_EMA):
        print(
            "note: the moving average (EMA) of the weights is left out; to convert it, make a file "
            "of it first, with tools/merge_checkpoint.py"
        )
    if cfg is not None:
        print(f"every name and shape fits {' '.join([args.config_file, *args.overrides])}")
    written = {args.output: conversion.state_dict}
    if args.reverse and args.backbone:
        written = dict(zip((args.output, args.backbone), split_files(theirs), strict=True))
    with ExitStack() as stack:  # all files appear when all are complete
        for path, tensors in written.items():
            write(stack.enter_context(atomic_file(path)), tensors, provenance, args.reverse)
    print(f"written: {' and '.join(map(str, written))}")


@reports_errors(logger, OSError, ValueError, TypeError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    run(build_parser().parse_intermixed_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
