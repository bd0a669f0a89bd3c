"""Weights by name, from the Hugging Face hub or from wherever timm finds them."""

import pickle

import timm
from timm.models import get_pretrained_cfg, load_state_dict_from_hf
from torch import Tensor

from vit_adapter.checkpoint.files import (
    CheckpointFileError,
    extract_state_dict,
    load_state_dict_file,
)
from vit_adapter.utils.hints import did_you_mean

__all__ = ["read_weights"]

_TIMM = "timm:"
_HUB = "hf-hub:"


def read_weights(name: str) -> dict[str, Tensor]:
    """Read weights from a file or URL, by their name in timm, or from a repository of the hub.

    Args:
        name: ``timm:vit_base_patch16_dinov3.lvd1689m``, ``hf-hub:owner/repository``, or what
            :func:`load_state_dict_file` takes. Downloads are kept in the hub's own cache folder.

    Raises:
        ValueError: timm has no weights of that name; the message suggests similar names.
        ConnectionError: the hub cannot be reached or refuses access to the file.
        FileNotFoundError, CheckpointFileError: see :func:`load_state_dict_file`.
    """
    if name.startswith(_HUB):
        return _download(name.removeprefix(_HUB), None)
    if not name.startswith(_TIMM):
        return load_state_dict_file(name, mapped=True)
    weights = name.removeprefix(_TIMM)
    if not timm.is_model_pretrained(weights):
        hint = did_you_mean(weights, timm.list_pretrained())
        raise ValueError(f"timm {timm.__version__} has no weights called {weights!r}.{hint}")
    cfg = get_pretrained_cfg(weights)
    if cfg.hf_hub_id:
        return _download(cfg.hf_hub_id, cfg.hf_hub_filename)
    return load_state_dict_file(cfg.url, mapped=True)


def _download(repository: str, filename: str | None) -> dict[str, Tensor]:
    """Fetch the weights of a repository: safetensors if possible, and never running any code."""
    options = {} if filename is None else {"filename": filename}
    try:
        content = load_state_dict_from_hf(repository, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        raise CheckpointFileError(
            f"the weights of {repository!r} are a pickle with more than tensors and plain values; "
            "reading it would run code from the file, so it is refused."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:  # the hub client's errors derive from them
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise ConnectionError(
            f"could not get the weights of {repository!r} from the Hugging Face hub: {reason}. "
            "Download the file on a machine with network access (log in first if the repository "
            "asks for it) and give its path instead."
        ) from None
    return extract_state_dict(content, repository)
