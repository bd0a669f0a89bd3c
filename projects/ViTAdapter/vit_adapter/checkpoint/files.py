"""Checkpoint files, read without running code from them.

Three formats hold tensors and nothing else: PyTorch's own (read with ``weights_only``),
safetensors, and NumPy archives without object arrays. Plain pickles are refused, because reading
one runs whatever its author put into it.
"""

import argparse
import copy
import os
import pickle
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from iopath.common.file_io import HTTPURLHandler, PathManager
from torch import Tensor

from vit_adapter.checkpoint.run_files import SET_ASIDE

__all__ = [
    "CheckpointFileError",
    "extract_state_dict",
    "load_checkpoint_file",
    "load_state_dict_file",
    "local_path",
]

_CONTAINERS = ("state_dict", "model", "module")
"""Keys under which training scripts store the weights, in the order they are looked for."""

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""Parts of names that come from wrappers around a module: torch.compile, activation checkpoints,
FullyShardedDataParallel."""

_SAFE_GLOBALS_LOCK = threading.Lock()

_TORCH_SUFFIXES = (".pth", ".pt", ".pth.tar")
_PICKLE_SUFFIXES = (".pkl", ".pickle")

_CONVERT_PICKLE = (
    "python -c \"import pickle, torch; d = pickle.load(open('IN.pkl', 'rb'), encoding='latin1'); "
    "d = d.get('model', d); "
    "torch.save({k: torch.as_tensor(v) for k, v in d.items()}, 'OUT.pth')\""
)


class CheckpointFileError(ValueError):
    """A checkpoint file that cannot be read as named tensors; the message says what to do."""


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the file on this machine for a path or a URL (downloaded once and kept).

    Args:
        path: a file name, or an ``http(s)://`` address. Downloads are kept in the folder of the
            environment variable ``FVCORE_CACHE`` (default ``~/.torch/iopath_cache``).

    Raises:
        FileNotFoundError: nothing is there.
        ConnectionError: the address cannot be reached.
    """
    name = os.fspath(path)
    if name.startswith(("http://", "https://")):
        manager = PathManager()
        manager.register_handler(HTTPURLHandler())
        try:
            return Path(manager.get_local_path(name))
        except OSError as error:
            raise ConnectionError(
                f"could not download the checkpoint {name}: {error}. Download it where there is a "
                "network connection and give the path of the file instead."
            ) from error
    if not os.path.exists(name):
        raise FileNotFoundError(
            f"checkpoint {name!r} does not exist (looked in {os.path.abspath(name)})."
            f"{_set_aside(Path(name))}"
        )
    if os.path.isdir(name):
        raise CheckpointFileError(f"checkpoint {name!r} is a folder; give a file inside it.")
    return Path(name)


def load_checkpoint_file(path: str | os.PathLike[str]) -> dict[str, object]:
    """Read a checkpoint file or URL as it was stored, on the CPU, without running code from it.

    Args:
        path: ``.pth``, ``.pt``, ``.pth.tar``, ``.safetensors`` or ``.npz``.

    Returns:
        The stored mapping: for a training checkpoint with the weights under one of its keys,
        otherwise name -> tensor.

    Raises:
        FileNotFoundError: no such file.
        CheckpointFileError: a format that is refused, a damaged file, or one that holds more
            than tensors and plain values.
    """
    name = os.fspath(path)
    lowered = name.lower()
    if lowered.endswith(_PICKLE_SUFFIXES):
        raise CheckpointFileError(
            f"checkpoint {name!r} is a pickle: reading it would run any code its author stored, "
            "so it is refused. If you trust where it comes from, convert it once:\n  "
            + _CONVERT_PICKLE
        )
    file = local_path(path)
    if lowered.endswith(_TORCH_SUFFIXES):
        loaded: object = _read_torch(file)
    elif lowered.endswith(".safetensors"):
        loaded = _read_safetensors(file)
    elif lowered.endswith(".npz"):
        loaded = _read_npz(file)
    else:
        raise CheckpointFileError(
            f"checkpoint {name!r} has an unknown ending; expected one of "
            f"{', '.join((*_TORCH_SUFFIXES, '.safetensors', '.npz'))}."
        )
    if not isinstance(loaded, Mapping):
        raise CheckpointFileError(
            f"checkpoint {name!r} holds a {type(loaded).__name__}, expected a mapping of names to "
            "tensors; save model.state_dict() instead of the model or a single tensor."
        )
    return dict(loaded)


def load_state_dict_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the weights of a checkpoint file or URL.

    The weights are looked for under ``state_dict``, ``model`` and ``module``, else the file
    itself is taken as the state dict. What wrappers of a model add to the names is dropped:
    ``module.`` before every name, ``_orig_mod.`` and the like anywhere.

    Returns:
        Name -> tensor on the CPU, in the order of the file.

    Raises:
        FileNotFoundError, CheckpointFileError: see :func:`load_checkpoint_file`; also when what
            is stored under a name is not a tensor.
    """
    return extract_state_dict(load_checkpoint_file(path), os.fspath(path))


def extract_state_dict(checkpoint: Mapping[str, object], name: str) -> dict[str, Tensor]:
    """Find the weights inside a loaded checkpoint; ``name`` is the file's, for messages."""
    found: Mapping[str, object] = checkpoint
    for container in _CONTAINERS:
        inner = checkpoint.get(container)
        if isinstance(inner, Mapping):
            found = inner
            break
    if not found:
        raise CheckpointFileError(f"checkpoint {name!r} is empty.")
    # copy.copy keeps the module versions that state_dict() attaches as an attribute.
    state_dict = copy.copy(found)
    for key, value in found.items():
        if not isinstance(key, str):
            raise CheckpointFileError(
                f"checkpoint {name!r} stores something under {key!r}, a {type(key).__name__}; "
                "expected names of parameters."
            )
        if isinstance(value, np.ndarray):
            state_dict[key] = torch.from_numpy(value)
        elif not isinstance(value, Tensor):
            raise CheckpointFileError(
                f"checkpoint {name!r} stores a {type(value).__name__} under {key!r}, expected a "
                f"tensor; the weights were looked for under {', '.join(_CONTAINERS)} and at the "
                "top level."
            )
    return _without_wrappers(state_dict, name)


def _without_wrappers(state_dict: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Rename to what the model inside torch.compile and other wrappers calls its tensors."""
    names = {key: ".".join(p for p in key.split(".") if p not in _WRAPPERS) for key in state_dict}
    if all(new.startswith("module.") for new in names.values()):
        names = {key: new.removeprefix("module.") for key, new in names.items()}
    if all(key == new for key, new in names.items()):
        return state_dict
    renamed: dict[str, Tensor] = {}
    for key, new in names.items():
        if new in renamed:
            raise CheckpointFileError(
                f"checkpoint {name!r} has {new!r} twice, once as {key!r}, a name that a wrapper "
                "such as torch.compile gives; store the state dict of the model alone."
            )
        renamed[new] = state_dict[key]
    return renamed


def _set_aside(file: Path) -> str:
    """Where a new run has moved a file that is gone, in words; "" if nowhere."""
    file = file.resolve()  # a link that is left behind names what has moved
    moved = sorted(file.parent.glob(f"{SET_ASIDE}*/{file.name}"))
    if not moved:
        return ""
    return (
        " A later run in this folder has set the files of an earlier one aside: it may be "
        f"{' or '.join(map(str, moved))} now. Name that file, and give the next run a "
        "train.output_dir of its own."
    )


def _read_torch(file: Path) -> object:
    # Training scripts often store their parsed command line beside the weights. A Namespace only
    # holds attributes, so it can be read without running anything.
    try:
        with _readable_namespace():
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)
        if "global" not in reason.lower():
            raise _damaged(file, reason) from error
        raise CheckpointFileError(
            f"checkpoint '{file}' holds Python objects besides tensors and plain values, and "
            "reading those would run code from the file, so it is refused. If you trust where it "
            "comes from, load it with torch.load(..., weights_only=False) and save the state dict "
            f"alone. PyTorch says: {_first_line(reason)}"
        ) from error
    except (RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        raise _damaged(file, error) from error


@contextmanager
def _readable_namespace() -> Iterator[None]:
    """Let ``torch.load`` read a Namespace; torch 2.4 lacks ``safe_globals``.

    The classes that it may read are those of the whole process: one thread at a time changes them,
    and what others add meanwhile stays.
    """
    with _SAFE_GLOBALS_LOCK:
        known = argparse.Namespace in torch.serialization.get_safe_globals()
        torch.serialization.add_safe_globals([argparse.Namespace])
        try:
            yield
        finally:
            if not known:
                kept = set(torch.serialization.get_safe_globals()) - {argparse.Namespace}
                torch.serialization.clear_safe_globals()
                torch.serialization.add_safe_globals(list(kept))


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(file, error) from error


def _read_npz(file: Path) -> dict[str, Tensor]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, not an archive")
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except TypeError as error:  # from_numpy on a dtype that torch lacks
        raise CheckpointFileError(f"checkpoint '{file}' cannot be used: {error}") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(file):
            raise CheckpointFileError(
                f"checkpoint '{file}' holds object arrays, which are pickles and could run code; "
                "save arrays of numbers only."
            ) from error
        raise _damaged(file, error) from error


def _damaged(file: Path, reason: Exception | str) -> CheckpointFileError:
    return CheckpointFileError(
        f"checkpoint '{file}' ({file.stat().st_size} bytes) is damaged, incomplete or of another "
        "format than its ending says; download or copy it again, or use an earlier checkpoint. "
        f"The reader says: {_first_line(reason)}"
    )


def _first_line(reason: Exception | str) -> str:
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    return lines[0] if lines else type(reason).__name__
