"""Checkpoints of a training run: atomic to write, strict to load, safe to read."""

import copy
import errno
import logging
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import Tensor, nn

from vit_adapter.backbone.lora import belongs_to_lora
from vit_adapter.checkpoint.average import MODEL_EMA, choose_weights
from vit_adapter.checkpoint.files import (
    CheckpointFileError,
    extract_state_dict,
    load_checkpoint_file,
    load_trainer_state,
)
from vit_adapter.checkpoint.inflation import inflate_inputs
from vit_adapter.checkpoint.loading import ADVICE, LoadReport, load_strict, without_prefix
from vit_adapter.checkpoint.original.provenance import find_tree
from vit_adapter.checkpoint.resumable import find_resumable
from vit_adapter.checkpoint.run_files import LAST_CHECKPOINT
from vit_adapter.checkpoint.sharded import SUFFIX, ShardedWriter, is_sharded_checkpoint
from vit_adapter.checkpoint.trained_part import (
    FIXED_WEIGHTS,
    BaseWeights,
    complete,
    hash_fixed_weights,
)
from vit_adapter.utils.atomic import atomic_open, atomic_save

__all__ = ["CheckpointWriteError", "Checkpointer"]

logger = logging.getLogger(__name__)

_REMEDIES = {
    errno.ENOSPC: "Free space on that file system, or lower train.checkpointer.max_to_keep",
    errno.EDQUOT: "Free space in your quota, or lower train.checkpointer.max_to_keep",
    errno.EFBIG: "Raise the limit for the size of files (ulimit -f)",
    errno.ENOENT: "Restore train.output_dir, which has been removed or unmounted",
    errno.EACCES: "Make train.output_dir writable",
    errno.EROFS: "Make the file system of train.output_dir writable again",
}

_RESUME_ADVICE = (
    "--resume continues only the run that wrote it: use the config and the classes of that run. "
    "Otherwise start without --resume from these weights with train.init_checkpoint='{}', which "
    "respects train.allow_mismatch, and give the new run its own train.output_dir."
)


class CheckpointWriteError(OSError):
    """A checkpoint cannot be written; the message names file, process, cause and what to do."""


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with three more guarantees.

    1. A file, ``last_checkpoint`` included, appears under its name only when it is complete, so
       training can resume from the folder even if the process is killed at any moment.
    2. Weights are loaded only if every name and shape fits (see :func:`load_strict`), except for a
       prefix that all names share (see :func:`without_prefix`).
    3. Files are read without running code from them; pickles are refused.

    Loading changes only the model. Everything else in a file is returned, because the objects that
    need it may be built later, from the loaded model.

    Args:
        model: the model, without a wrapper.
        save_dir: folder of the checkpoints; "" if nothing is saved.
        trainer: object whose ``state_dict()`` is stored under ``trainer`` (iteration, optimizer,
            hooks); None to store only the weights.
        allow_mismatch: one or several regular expressions of names that need not fit in
            :meth:`load`. Resuming is always strict, because the same config wrote the checkpoint.
        gather: replaces pieces of tensors in a checkpoint by whole ones, in the main process.
        sharded: write folders instead, without gathering, while training goes on; see
            :mod:`vit_adapter.checkpoint.sharded`. Not together with ``trained_only``.
        base: the pre-trained weights of the model's ViT. A checkpoint of the trained part lies on
            top of them, see :mod:`vit_adapter.checkpoint.trained_part`; loading one also loads them
            unless the model already has them.
        trained_only: save only the trained part.
        average: object whose ``state_dict()`` is the moving average of the weights, which is stored
            with them; None if there is none.
        load_average: load the moving average of a checkpoint instead of its weights, if it has one.
        inflate: let :meth:`load` inflate convolutions over RGB images to the number of channels of
            the model, see :mod:`vit_adapter.checkpoint.inflation`. Resuming never does.

    Attributes:
        sharded: as given.
        report: what the last loading did with each name; None before.
        saved_iteration: in the main process, ``iteration`` of the last checkpoint that was written,
            or started with ``sharded``; None before.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        trainer: object | None = None,
        allow_mismatch: str | Sequence[str] = (),
        gather: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        sharded: bool = False,
        base: BaseWeights | None = None,
        trained_only: bool = False,
        average: object | None = None,
        load_average: bool = False,
        inflate: bool = False,
    ) -> None:
        stored = {"trainer": trainer, MODEL_EMA: average}
        stored = {key: value for key, value in stored.items() if value is not None}
        super().__init__(model, save_dir, **stored)
        self.allow_mismatch = allow_mismatch
        self._gather = gather
        self.sharded = sharded
        self._writer = ShardedWriter() if sharded else None
        self._base = base
        self._trained_only = trained_only
        self._load_average = load_average
        self._inflate = inflate
        self._fixed: dict[str, Any] = {}
        self.report: LoadReport | None = None
        self.saved_iteration: object = None

    def save(self, name: str, *, as_last: bool = True, **extra: object) -> None:
        """Write a checkpoint in ``save_dir``.

        Every process calls this, since each may hold a part of the state; only the main process
        writes.

        Args:
            name: file name without its extension, which is ``.pth`` or, of a folder, ``.sharded``.
            as_last: also point ``last_checkpoint`` at it, so that ``--resume`` continues from it.
            extra: plain values stored next to model and trainer, such as ``iteration``.

        Raises:
            CheckpointWriteError: the file cannot be written, or the folder before it could not;
                earlier checkpoints are unchanged.
        """
        if not self.save_dir:
            return
        data: dict[str, Any] = {"model": self.model.state_dict()}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        data.update(extra)
        path = self.path_of(name)
        logger.info("Saving checkpoint to %s", path)
        if self._writer is not None:
            try:
                self._writer.start(data, Path(path), self._tag_folder if as_last else None)
            except OSError as error:
                raise CheckpointWriteError(self._describe_failure(path, error)) from error
            if as_last:
                self.saved_iteration = extra.get("iteration")
            return
        data = self._gather(data)
        if not self.save_to_disk:
            return
        if self._trained_only:
            data |= self._leave_out_fixed(data["model"])
        try:
            atomic_save(data, path)
            if as_last:
                self.tag_last_checkpoint(os.path.basename(path))
        except OSError as error:
            raise CheckpointWriteError(self._describe_failure(path, error)) from error
        if as_last:
            self.saved_iteration = extra.get("iteration")

    def _describe_failure(self, path: str, error: OSError) -> str:
        last = self.get_checkpoint_file() if self.has_checkpoint() else ""
        return (
            f"checkpoint {path} cannot be written by process {comm.get_rank()} on "
            f"{platform.node()}: {error.strerror or error}. "
            + (f"The last whole checkpoint is {last}. " if last else "There is no earlier one. ")
            + f"{_REMEDIES.get(error.errno, 'Check the disk and the folder')}; --resume continues "
            "from the last checkpoint."
        )

    def path_of(self, name: str) -> str:
        """Return where :meth:`save` puts the checkpoint of this name."""
        return os.path.join(self.save_dir, f"{name}{'.pth' if self._writer is None else SUFFIX}")

    def wait(self) -> None:
        """Wait for a folder that is still being written; every process calls this.

        Raises:
            CheckpointWriteError: it could not be written.
        """
        if self._writer is not None:
            try:
                self._writer.wait()
            except OSError as error:
                raise CheckpointWriteError(str(error)) from error

    def _leave_out_fixed(self, state_dict: dict[str, Tensor]) -> dict[str, object]:
        if not self._fixed:  # once: these weights do not change
            source = self._base.source if self._base is not None else ""
            self._fixed = {"source": source, "sha256": hash_fixed_weights(self.model, state_dict)}
        trained = copy.copy(state_dict)  # with the module versions attached to it
        for name in self._fixed["sha256"]:
            del trained[name]
        return {"model": trained, FIXED_WEIGHTS: self._fixed}

    def _tag_folder(self, folder: Path) -> None:
        self.tag_last_checkpoint(folder.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write ``last_checkpoint``, atomically."""
        with atomic_open(os.path.join(self.save_dir, LAST_CHECKPOINT)) as stream:
            stream.write(last_filename_basename)

    def load(self, path: str) -> dict[str, object]:
        """Load the weights of a checkpoint file or URL.

        Args:
            path: the file; "" loads nothing.

        Returns:
            The rest of the file, such as the trainer's state.

        Raises:
            FileNotFoundError, CheckpointFileError, CheckpointMismatchError: the file cannot be
                loaded; the model is unchanged.
            BaseWeightsError: the file holds only the trained part, of another ViT.
        """
        return self._load(path, self.allow_mismatch, ADVICE, inflate=self._inflate)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, object]:
        """Load the weights of the last checkpoint in ``save_dir``, or else those of ``path``.

        If that one is missing or damaged, the newest earlier one that can be read takes its place
        (:func:`vit_adapter.checkpoint.resumable.find_resumable`). The main process chooses the
        file, so that all processes continue from the same one.

        Args:
            path: weights to start from if there is nothing to resume; "" for none.
            resume: whether to look for a checkpoint in ``save_dir``.

        Returns:
            As :meth:`load`.

        Raises:
            FileNotFoundError, CheckpointFileError, CheckpointMismatchError: as :meth:`load`, or
                there are checkpoints to resume, but none of them can be read.
        """
        last = self._choose_last() if resume else ""
        if not last:
            return self.load(path)
        found = comm.all_gather(os.path.isfile(last) or is_sharded_checkpoint(last))
        missing = [rank for rank, is_there in enumerate(found) if not is_there]
        if missing:
            raise FileNotFoundError(
                f"checkpoint {last} exists for process 0, but processes {missing} cannot find it: "
                "train.output_dir must be a folder that all machines share."
            )
        rest = self._load(last, (), _RESUME_ADVICE.format(last))
        load_trainer_state(last, rest)
        return rest

    def _choose_last(self) -> str:
        """Return the checkpoint to resume, for all processes; "" if there is none."""
        chosen, problem = "", ""
        if comm.is_main_process() and self.has_checkpoint():
            try:
                chosen = str(find_resumable(Path(self.save_dir)))
            except CheckpointFileError as error:
                problem = str(error)
        chosen, problem = comm.all_gather((chosen, problem))[0]  # all of them stop, or none
        if problem:
            raise CheckpointFileError(problem)
        return chosen

    def _load(
        self, path: str, allow: str | Sequence[str], advice: str, *, inflate: bool = False
    ) -> dict[str, object]:
        if not path:
            logger.info("No checkpoint given: the model keeps its initial weights.")
            return {}
        logger.info("Loading checkpoint %s", path)
        checkpoint: dict[str, Any] = load_checkpoint_file(path)
        source = f"checkpoint {path!r}"
        state_dict = extract_state_dict(checkpoint, path)
        state_dict = choose_weights(checkpoint, state_dict, average=self._load_average, name=path)
        state_dict = without_prefix(self.model, state_dict, source=source)
        own = self.model.state_dict()
        fixed = checkpoint.get(FIXED_WEIGHTS)
        if fixed is not None:
            state_dict = complete(self.model, state_dict, fixed, self._base, source=source)
        if any(map(belongs_to_lora, state_dict)) and not any(map(belongs_to_lora, own)):
            source += " (with LoRA: give the lora_rank and lora_alpha of its training)"
        if find_tree(state_dict) and not find_tree(own):
            source += " (the original's names: convert it with tools/convert_checkpoint.py first)"
        if inflate:
            state_dict, _ = inflate_inputs(state_dict, own)
        self.report = load_strict(self.model, state_dict, allow, source=source, advice=advice)
        weights = {"model", "state_dict", "module", FIXED_WEIGHTS}
        return {
            key: value
            for key, value in checkpoint.items()
            if key not in weights and not isinstance(value, Tensor)
        }
