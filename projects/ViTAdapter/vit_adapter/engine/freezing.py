"""Parameters that a run does not train, chosen by patterns of their names: ``train.freeze``."""

import logging
import re
from collections.abc import Iterable, Sequence

from detectron2.engine import HookBase
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vit_adapter.backbone.lora import belongs_to_lora
from vit_adapter.config.errors import UsageError
from vit_adapter.utils.hints import did_you_mean

__all__ = ["FrozenNorms", "freeze_parameters"]

logger = logging.getLogger(__name__)


def freeze_parameters(model: nn.Module, patterns: str | Sequence[str]) -> None:
    """Switch off the gradients of all parameters that match a pattern.

    Call this before the model is wrapped and the optimizer is built: both leave these parameters
    out. Batch norms among them still collect statistics; see :class:`FrozenNorms`.

    Args:
        model: changed in place.
        patterns: one or several regular expressions, each searched for anywhere in the name of a
            parameter (``backbone.bottom_up.vit``, ``roi_heads``).

    Raises:
        UsageError: a pattern is not a regular expression, or matches nothing; the message lists
            similar names.
    """
    # A shared parameter has several names, and each may match.
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            found = [name for name in parameters if re.search(pattern, name)]
        except re.error as error:
            raise UsageError(
                f"train.freeze: {pattern!r} is not a regular expression ({error})."
            ) from error
        if not found:
            raise UsageError(
                f"train.freeze: {pattern!r} matches no parameter.{_near_names(pattern, parameters)}"
            )
        for name in found:
            parameters[name].requires_grad_(False)
        logger.info(
            "train.freeze: %r freezes %d tensors, %s to %s.",
            pattern,
            len(found),
            found[0],
            found[-1],
        )
    factors = [parameter for name, parameter in parameters.items() if belongs_to_lora(name)]
    if factors and not any(parameter.requires_grad for parameter in factors):
        logger.warning(
            "train.freeze: all LoRA factors are frozen, so the ViT does not learn. To train them, "
            "omit the patterns that match them: lora_rank freezes the rest of the ViT."
        )


class FrozenNorms(HookBase):
    """Keeps batch norms of frozen modules in evaluation mode while the rest trains.

    They then use their running statistics and do not update them. A norm is frozen if none of its
    parameters is trained. A norm without parameters counts those of the nearest enclosing module
    that has some.

    Args:
        model: a model whose parameters are already frozen.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        self.norms = [
            module
            for name, module in modules.items()
            if isinstance(module, _BatchNorm)
            and module.running_mean is not None
            and _is_frozen(name, modules)
        ]

    def before_step(self) -> None:
        """Undo ``model.train()``, which is called at the start and after each evaluation."""
        for norm in self.norms:
            norm.eval()


def _is_frozen(name: str, modules: dict[str, nn.Module]) -> bool:
    parameters = list(modules[name].parameters())
    while not parameters and name:
        name = name.rpartition(".")[0]
        parameters = list(modules[name].parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _near_names(pattern: str, parameters: Iterable[str]) -> str:
    """Name the parameters and modules similar to a pattern, or else the parts of the model."""
    names: dict[str, None] = {}
    for parameter in parameters:
        parts = parameter.split(".")
        names.update(dict.fromkeys(".".join(parts[:n]) for n in range(1, len(parts) + 1)))
    top = ", ".join(name for name in names if "." not in name)
    return did_you_mean(
        pattern.replace("\\", ""), names, cutoff=0.6, otherwise=f"The model consists of {top}."
    )
