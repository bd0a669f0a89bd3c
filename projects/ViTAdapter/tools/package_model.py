"""Put a trained model into one folder that holds all that prediction needs, as data without code.

    package_model.py output/nuclei nuclei_model --title "Nuclei, Mask R-CNN" --licence cc-by-4.0

    package_model.py output/nuclei nuclei_model --push owner/nuclei

RUN is the output folder of a training, whose last weights are taken, or any other config with
--weights. LazyPredictor.from_pretrained(OUT) reads the folder, also without the training data and
without a network. Exit status: 0 written, 2 something was not written or pushed.
"""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402
from omegaconf import DictConfig

from vit_adapter import LazyPredictor
from vit_adapter.checkpoint import run_files
from vit_adapter.config.loading import load_config
from vit_adapter.config.weights import require_weights, uses_average
from vit_adapter.hub import push_folder

AVERAGED = "_ema"
"""End of the names of tasks that were evaluated with the moving average of the weights."""
from vit_adapter.utils.command_line import reports_errors

logger = logging.getLogger("vit_adapter.package_model")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Put a trained model into one folder that holds all that prediction needs.",
        epilog="exit status: 0 written, 2 something was not written or pushed",
    )
    add = parser.add_argument
    add(
        "run",
        metavar="RUN",
        help="output folder of a training; also a config file, a name in the model zoo or a "
        "portable folder",
    )
    add("output", type=Path, metavar="OUT", help="the folder to write")
    add(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="config overrides, such as model.roi_heads.box_predictor.test_score_thresh=0.5",
    )
    add(
        "--weights",
        metavar="FILE",
        help="checkpoint of the whole model or its trained part, such as RUN/model_best.pth "
        "(default: the last one in RUN)",
    )
    add(
        "--results",
        type=Path,
        metavar="FILE",
        help="results of these weights, as train_net.py writes them (default: those in RUN if its "
        "model_final.pth is taken)",
    )
    add("--title", metavar="TEXT", help="name of the model on its card (default: name of OUT)")
    add(
        "--licence",
        "--license",
        default="",
        metavar="ID",
        help="identifier of the licence of the weights, such as cc-by-4.0",
    )
    add(
        "--licence-text",
        "--license-text",
        default="",
        metavar="TEXT",
        help="more for the licence note, such as the sources of data and pre-trained weights",
    )
    add("--force", action="store_true", help="replace OUT if it is a portable folder")
    add("--push", metavar="OWNER/NAME", help="also upload OUT to the Hugging Face Hub")
    add("--private", action="store_true", help="with --push: a new repository is private")
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the folder, and push it if asked to.

    Raises:
        ValueError, OSError, TypeError, ImportError: something was not written or pushed; the
            message says why.
    """
    cfg = load_config(args.run, args.overrides)
    cfg.train.device = "cpu"
    require_weights(cfg, args.weights)
    metrics = find_results(args, cfg)
    predictor = LazyPredictor(cfg, args.weights)
    folder = predictor.save_pretrained(
        args.output,
        title=args.title or args.output.resolve().name,
        metrics=metrics,
        licence=args.licence,
        licence_text=args.licence_text,
        force=args.force,
    )
    print(f"Written: {folder}")
    if args.push:
        print(f"Pushed: {push_folder(folder, args.push, private=args.private or None)}")


def find_results(args: argparse.Namespace, cfg: DictConfig) -> dict[str, dict[str, float]]:
    """Return the results of the weights; empty if they are unknown.

    Args:
        args: the command line.
        cfg: the config, which names the weights and says whether their moving average is taken.

    Raises:
        ValueError: the file is not one of results.
        FileNotFoundError: it does not exist.
    """
    file = args.results
    is_final = Path(cfg.train.init_checkpoint).name == run_files.FINAL_CHECKPOINT
    if file is None and args.weights is None and is_final:
        file = Path(args.run) / run_files.RESULTS
        file = file if file.is_file() else None
    if file is None:
        logger.warning(
            "The folder will state no results, because it is unknown whether there are any of "
            "these weights. Evaluate them with train_net.py --eval-only, and give its "
            "results.json with --results."
        )
        return {}
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise ValueError(f"{file} is not a file of results, expected the results.json of a run")
    averaged = {task for task in content if task.endswith(AVERAGED)}
    if averaged and uses_average(cfg):
        return {task.removesuffix(AVERAGED): content[task] for task in content if task in averaged}
    return {task: content[task] for task in content if task not in averaged}


@reports_errors(logger, OSError, ValueError, TypeError, ImportError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    run(build_parser().parse_intermixed_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
