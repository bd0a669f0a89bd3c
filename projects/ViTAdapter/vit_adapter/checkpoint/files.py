"""Checkpoint files, read without running code from them.

Three formats can be read safely: PyTorch's own (with ``weights_only``), safetensors, and NumPy
archives without object arrays. Plain pickles are refused, because reading one runs any code that
its author put into it.
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
from typing import Any

import numpy as np
import torch
from iopath.common.file_io import HTTPURLHandler, PathManager
from torch import Tensor

from vit_adapter.checkpoint.run_files import SET_ASIDE
from vit_adapter.checkpoint.sharded import REST, fill_in, is_sharded_checkpoint

__all__ = [
    "CheckpointFileError",
    "extract_state_dict",
    "load_checkpoint_file",
    "load_state_dict_file",
    "load_trainer_state",
    "local_path",
]

_CONTAINERS = ("state_dict", "model", "module")
"""Keys under which training scripts store the weights, in the order in which they are tried."""

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""Parts of names that wrappers add: torch.compile, activation checkpointing and
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
        path: a file name or an ``http(s)://`` URL. Downloads are kept in the folder given by the
            environment variable ``FVCORE_CACHE`` (default ``~/.torch/iopath_cache``).

    Raises:
        FileNotFoundError: the file does not exist.
        ConnectionError: the URL cannot be reached.
        CheckpointFileError: the path is a folder.
    """
    name = os.fspath(path)
    if name.startswith(("http://", "https://")):
        manager = PathManager()
        manager.register_handler(HTTPURLHandler())
        try:
            return Path(manager.get_local_path(name))
        except OSError as error:
            raise ConnectionError(
                f"could not download the checkpoint {name}: {error}. Download it on a machine with "
                "network access and give the path of the file instead."
            ) from error
    if not os.path.exists(name):
        raise FileNotFoundError(
            f"checkpoint {name!r} does not exist (looked in {os.path.abspath(name)})."
            f"{_set_aside(Path(name))}"
        )
    if os.path.isdir(name):
        raise CheckpointFileError(f"checkpoint {name!r} is a folder; give a file inside it.")
    return Path(name)


def load_checkpoint_file(
    path: str | os.PathLike[str], *, mapped: bool = False
) -> dict[str, object]:
    """Read a checkpoint file or URL as it was stored, on the CPU, without running code from it.

    Args:
        path: ``.pth``, ``.pt``, ``.pth.tar``, ``.safetensors`` or ``.npz``, or a folder of
            :mod:`vit_adapter.checkpoint.sharded`. The state of the trainer in such a folder stays
            on the meta device, see :func:`load_trainer_state`.
        mapped: map a PyTorch file into memory instead of reading it, if its format allows it: its
            tensors then need no memory of their own. The file must not be changed while they are
            in use. Safetensors files are always mapped.

    Returns:
        The stored mapping: a training checkpoint with the weights under one of its keys, or
        name -> tensor.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointFileError: the format is refused, the file is damaged, or it holds more than
            tensors and plain values.
    """
    name = os.fspath(path)
    lowered = name.lower()
    if is_sharded_checkpoint(name):
        return _read_sharded(Path(name))
    if lowered.endswith(_PICKLE_SUFFIXES):
        raise CheckpointFileError(
            f"checkpoint {name!r} is a pickle: reading it would run any code its author stored, "
            "so it is refused. If you trust its source, convert it once:\n  " + _CONVERT_PICKLE
        )
    file = local_path(path)
    if lowered.endswith(_TORCH_SUFFIXES):
        loaded: object = _read_torch(file, mapped)
    elif lowered.endswith(".safetensors"):
        loaded = _read_safetensors(file)
    elif lowered.endswith(".npz"):
        loaded = _read_npz(file)
    else:
        raise CheckpointFileError(
            f"checkpoint {name!r} has an unknown extension; expected one of "
            f"{', '.join((*_TORCH_SUFFIXES, '.safetensors', '.npz'))}."
        )
    if not isinstance(loaded, Mapping):
        raise CheckpointFileError(
            f"checkpoint {name!r} holds a {type(loaded).__name__}, expected a mapping of names to "
            "tensors; save model.state_dict() instead of the model or a single tensor."
        )
    return dict(loaded)


def load_trainer_state(path: str | os.PathLike[str], checkpoint: dict[str, object]) -> None:
    """Read the rest of the result of :func:`load_checkpoint_file`, if ``path`` is a folder.

    Raises:
        CheckpointFileError: a file in the folder is damaged or missing.
    """
    if is_sharded_checkpoint(path) and "trainer" in checkpoint:
        checkpoint["trainer"] = _fill_in(Path(path), checkpoint["trainer"], "trainer")


def load_state_dict_file(
    path: str | os.PathLike[str], *, mapped: bool = False
) -> dict[str, Tensor]:
    """Read the weights of a checkpoint file or URL.

    The weights are looked for under ``state_dict``, ``model`` and ``module``; otherwise the file
    itself is taken as the state dict. Parts of names that come from wrappers are dropped:
    ``module.`` in front of every name, ``_orig_mod.`` and similar parts anywhere.

    Args:
        path: see :func:`load_checkpoint_file`.
        mapped: see :func:`load_checkpoint_file`.

    Returns:
        Name -> tensor on the CPU, in the order of the file.

    Raises:
        FileNotFoundError, CheckpointFileError: see :func:`load_checkpoint_file`.
        CheckpointFileError: also if a value is not a tensor.
    """
    return extract_state_dict(load_checkpoint_file(path, mapped=mapped), os.fspath(path))


def extract_state_dict(checkpoint: Mapping[str, object], name: str) -> dict[str, Tensor]:
    """Find the weights inside a loaded checkpoint; messages call the file ``name``."""
    found: Mapping[str, object] = checkpoint
    for container in _CONTAINERS:
        inner = checkpoint.get(container)
        if isinstance(inner, Mapping):
            found = inner
            break
    if not found:
        raise CheckpointFileError(f"checkpoint {name!r} is empty.")
    # copy.copy keeps the module versions that state_dict() attaches as an attribute.
    state_dict: Any = copy.copy(found)
    for key, value in found.items():
        if not isinstance(key, str):
            raise CheckpointFileError(
                f"checkpoint {name!r} has the key {key!r} of type {type(key).__name__}; expected "
                "names of parameters."
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
    """Remove from the names what torch.compile and other wrappers add."""
    names = {key: ".".join(p for p in key.split(".") if p not in _WRAPPERS) for key in state_dict}
    if all(new.startswith("module.") for new in names.values()):
        names = {key: new.removeprefix("module.") for key, new in names.items()}
    if all(key == new for key, new in names.items()):
        return state_dict
    renamed: dict[str, Tensor] = {}
    for key, new in names.items():
        if new in renamed:
            raise CheckpointFileError(
                f"checkpoint {name!r} has {new!r} twice, once as {key!r}, the name inside a "
                "wrapper such as torch.compile; store only the state dict of the model itself."
            )
        renamed[new] = state_dict[key]
    return renamed


def _set_aside(file: Path) -> str:
    """A sentence that says where a later run has moved a missing file; "" if it has not."""
    file = file.resolve()  # a link that stayed behind still names the file that was moved
    moved = sorted(file.parent.glob(f"{SET_ASIDE}*/{file.name}"))
    if not moved:
        return ""
    return (
        " A later run in this folder has moved the files of an earlier one: the file may now be "
        f"{' or '.join(map(str, moved))}. Give that path, and give each run its own "
        "train.output_dir."
    )


def _read_sharded(folder: Path) -> dict[str, object]:
    rest: Any = _read_torch(folder / REST, False)
    return {
        key: value if key == "trainer" else _fill_in(folder, value, key)
        for key, value in rest.items()
    }


def _fill_in(folder: Path, value: object, key: str) -> object:
    try:
        return fill_in(folder, value, key)
    except ValueError as error:
        raise _damaged(folder, error) from error


def _read_torch(file: Path, mapped: bool) -> object:
    mapped = mapped and zipfile.is_zipfile(file)  # not the format before PyTorch 1.6
    # Training scripts often store their parsed command line with the weights. A Namespace only
    # holds attributes, so it can be read without running anything.
    try:
        with _readable_namespace():
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)
        if "global" not in reason.lower():
            raise _damaged(file, reason) from error
        raise CheckpointFileError(
            f"checkpoint '{file}' holds Python objects other than tensors and plain values. "
            "Reading those would run code from the file, so it is refused. If you trust its "
            "source, load it with torch.load(..., weights_only=False) and save only the state "
            f"dict. PyTorch says: {_first_line(reason)}"
        ) from error
    except (RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        raise _damaged(file, error) from error


@contextmanager
def _readable_namespace() -> Iterator[None]:
    """Let ``torch.load`` read a Namespace; torch 2.4 does not have ``safe_globals``.

    The list of allowed classes is global to the process: only one thread at a time changes it, and
    entries that others add meanwhile stay.
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
    except TypeError as error:  # from_numpy on a dtype that torch does not have
        raise CheckpointFileError(f"checkpoint '{file}' cannot be used: {error}") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(file):
            raise CheckpointFileError(
                f"checkpoint '{file}' holds object arrays, which are pickles and could run code; "
                "save only arrays of numbers."
            ) from error
        raise _damaged(file, error) from error


def _damaged(file: Path, reason: Exception | str) -> CheckpointFileError:
    return CheckpointFileError(
        f"checkpoint '{file}' ({file.stat().st_size} bytes) is damaged, incomplete or not in the "
        "format of its extension; download or copy it again, or use an earlier checkpoint. "
        f"The reader says: {_first_line(reason)}"
    )


def _first_line(reason: Exception | str) -> str:
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    return lines[0] if lines else type(reason).__name__
