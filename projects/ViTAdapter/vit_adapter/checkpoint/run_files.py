"""The names of the files that a run writes into its output folder."""

__all__ = [
    "BEST_CHECKPOINT",
    "CHECKPOINTS",
    "CONFIG",
    "EVALUATIONS",
    "EVALUATION_CONFIG",
    "EVALUATION_RESULTS",
    "FINAL_CHECKPOINT",
    "LAST_CHECKPOINT",
    "METRICS",
    "NON_FINITE",
    "PATTERNS",
    "PICTURES",
    "RESULTS",
    "SET_ASIDE",
    "TRACKERS",
    "SHARDED_CHECKPOINTS",
    "checkpoint_name",
]

CONFIG = "config.yaml"
EVALUATION_CONFIG = "config_eval.yaml"
METRICS = "metrics.json"
RESULTS = "results.json"
EVALUATION_RESULTS = "results_eval.json"
"""Results of ``--eval-only`` in the folder of a training run, which keeps its own results."""

EVALUATIONS = "evaluations.json"
"""The metric that decides which checkpoint is the best, after each evaluation."""

PICTURES = "inference/pictures"
"""The folder with pictures of predictions, in one folder for each evaluation."""

TRACKERS = "trackers.json"
"""The names under which experiment trackers know the run."""

LAST_CHECKPOINT = "last_checkpoint"
"""A text file with the name of the newest checkpoint."""

FINAL_CHECKPOINT = "model_final.pth"
BEST_CHECKPOINT = "model_best.pth"
CHECKPOINTS = "model_*.pth"
SHARDED_CHECKPOINTS = "model_*.sharded"

NON_FINITE = "non_finite_"
"""Prefix of the files to repeat a step whose loss was not finite."""

SET_ASIDE = "previous_run_"
"""Prefix of the folders to which a new run moves the files of an earlier one."""

PATTERNS = (
    LAST_CHECKPOINT,  # first: without it no half-moved run can be resumed by mistake
    CHECKPOINTS,
    SHARDED_CHECKPOINTS,
    f"{NON_FINITE}*",
    METRICS,
    EVALUATIONS,
    RESULTS,
    EVALUATION_RESULTS,
    f"{CONFIG}*",
    f"{EVALUATION_CONFIG}*",
    "events.out.tfevents.*",
    TRACKERS,
    "wandb",
    "inference",  # the predictions of the last evaluation, and pictures
)
"""Everything that belongs to a run, in the order in which it is moved away."""


def checkpoint_name(iteration: int) -> str:
    """Return the name, without ``.pth``, of the checkpoint after an iteration, counted from 0."""
    return f"model_{iteration:07d}"
