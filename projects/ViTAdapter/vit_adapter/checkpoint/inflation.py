"""Convolutions over RGB images, inflated to models of another number of channels.

Shapes: D output channels, C channels of the model, k side of the kernel.
"""

import copy
import logging
import re
from collections.abc import Mapping

from timm.models import adapt_input_conv
from torch import Tensor

from vit_adapter.checkpoint.loading import ResizedEntry

__all__ = ["inflate_inputs"]

logger = logging.getLogger(__name__)

_RGB = 3
_INPUT_CONVOLUTION = re.compile(r"(^|\.)(patch_embed\.proj|spm\.stem\.0)\.weight$")


def inflate_inputs(
    state_dict: dict[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[ResizedEntry, ...]]:
    """Fit the kernels of patch embedding and spatial prior to the channels of the model.

    The rule is timm's: a kernel (D, 3, k, k) is repeated over the C channels and scaled by 3 / C,
    or summed for one channel. An image whose channels are all equal then gives the same response.
    Kernels that already have C channels stay as they are.

    Args:
        state_dict: weights under the names of the model.
        expected: the weights of the model.

    Returns:
        A copy of ``state_dict`` with the changed kernels, and what was changed, which is logged.
    """
    inflated: dict[str, Tensor] = {}
    for name, kernel in state_dict.items():
        if name not in expected or not _INPUT_CONVOLUTION.search(name) or kernel.ndim != 4:
            continue
        channels = expected[name].shape[1]
        if kernel.shape[1] == _RGB != channels:
            inflated[name] = adapt_input_conv(channels, kernel)
    entries = tuple(
        ResizedEntry(name, tuple(state_dict[name].shape), tuple(kernel.shape))
        for name, kernel in inflated.items()
    )
    if entries:
        channels = entries[0].model_shape[1]
        rule = "summed" if channels == 1 else f"repeated and scaled by 3/{channels}"
        logger.info(
            "Inflated from red, green and blue to %d channels, %s: %s",
            channels,
            rule,
            "; ".join(map(str, entries)),
        )
    result = copy.copy(state_dict)  # with the module versions attached to it
    result.update(inflated)
    return result, entries
