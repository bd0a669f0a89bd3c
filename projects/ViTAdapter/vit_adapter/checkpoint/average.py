"""The moving average (EMA) of the weights in a checkpoint, which stands beside the weights."""

import logging
from collections.abc import Mapping

from torch import Tensor

from vit_adapter.checkpoint.files import CheckpointFileError, extract_state_dict

__all__ = ["MODEL_EMA", "choose_weights"]

logger = logging.getLogger(__name__)

MODEL_EMA = "model_ema"
"""The key of the average: name -> tensor, without the parameters that the run does not train."""


def choose_weights(
    checkpoint: Mapping[str, object], state_dict: dict[str, Tensor], *, average: bool, name: str
) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, or their moving average, and log which.

    A file that holds only weights has nothing to choose from, so its weights are taken.

    Args:
        checkpoint: the whole file.
        state_dict: the weights in it.
        average: take the average where there is one.
        name: what messages call the file.

    Raises:
        CheckpointFileError: a run without an average wrote the file, but the average is wanted.
    """
    averages = checkpoint.get(MODEL_EMA)
    if not averages:
        if average and "trainer" in checkpoint:
            raise CheckpointFileError(
                f"checkpoint {name!r} holds no moving average (EMA) of the weights, because its "
                "run did not compute one. To use the weights themselves, set "
                "train.model_ema.use_ema_weights_for_eval_only=False."
            )
        return state_dict
    if not average:
        logger.info(
            "Taking the trained weights. The file also holds their moving average (EMA), which is "
            "for train.model_ema.use_ema_weights_for_eval_only=True."
        )
        return state_dict
    logger.info("Taking the moving average (EMA) of the weights.")
    state_dict.update(extract_state_dict({"model": averages}, name))
    return state_dict
