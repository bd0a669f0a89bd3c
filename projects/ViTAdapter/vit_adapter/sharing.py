"""Sharing the model of a predictor: portable folders and the Hugging Face Hub."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from detectron2.data import Metadata
from omegaconf import DictConfig
from torch import nn

from vit_adapter.config.portable import describe_model
from vit_adapter.hub import (
    FolderError,
    download_folder,
    is_portable,
    push_folder,
    write_folder,
)
from vit_adapter.hub.card import licence_note, model_card

__all__ = ["Shareable"]

_T = TypeVar("_T", bound="Shareable")


class Shareable:
    """What a predictor inherits to write its model to a folder or to the Hub, and to read it.

    Attributes:
        cfg: the config of the model.
        metadata: names, colours and category ids of the classes.
        unwrapped_model: the model without wrappers for testing.
    """

    cfg: DictConfig
    metadata: Metadata
    unwrapped_model: nn.Module

    @classmethod
    def from_pretrained(
        cls: type[_T],
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        **arguments: Any,
    ) -> _T:
        """Load a model from a portable folder, or from a repository of the Hugging Face Hub.

        No code of the folder is run, and its files have to be those that its manifest lists.

        Args:
            name: path of a folder that :meth:`save_pretrained` has written, or ``"owner/name"``.
            revision: branch, tag or commit of the repository; None is its main branch.
            cache_dir: where downloads are kept; None is the Hub's own cache folder.
            token: for a private repository; None is the one of ``hf auth login``.
            local_files_only: use what was downloaded before, and do not ask the Hub.
            **arguments: other arguments of the class, such as ``overrides``.

        Raises:
            ValueError: there is no such folder, it was altered, or this version cannot use it.
            ConnectionError: the Hub cannot be reached, or refuses access.

        Example::

            predictor = LazyPredictor.from_pretrained("owner/name", revision="v1.0")
        """
        folder = download_folder(
            name,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        if not is_portable(folder):
            raise FolderError(
                f"{folder} has no manifest.json, so it is not a portable folder. Make one with "
                "tools/package_model.py."
            )
        construct: Callable[..., _T] = cls  # its arguments are those of the subclass
        return construct(folder, **arguments)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        title: str = "ViT-Adapter",
        metrics: Mapping[str, Mapping[str, float]] | None = None,
        licence: str = "",
        licence_text: str = "",
        force: bool = False,
    ) -> Path:
        """Write the model with all that prediction needs into a portable folder.

        Args:
            folder: a new name, or an empty folder.
            title: name of the model on its card.
            metrics: its results as task -> metric -> value, as in ``results.json``.
            licence: identifier of the licence of the weights, such as "cc-by-4.0".
            licence_text: more about it, such as the sources of data and weights.
            force: replace a portable folder of this name.

        Returns:
            The folder, as an absolute path.

        Raises:
            ValueError: the config holds code or objects, which a portable folder cannot hold.
            OSError: the name is taken, or the folder cannot be written.
        """
        contents = describe_model(self.cfg, _portable_metadata(self.metadata), metrics or {})
        return write_folder(
            folder,
            contents,
            self.unwrapped_model.state_dict(),
            card=model_card(contents, title=title, licence=licence),
            licence=licence_note(licence, licence_text),
            force=force,
        )

    def push_to_hub(
        self,
        repository: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        message: str = "Add a model of vit_adapter",
        **description: Any,
    ) -> str:
        """Upload the model to the Hugging Face Hub, as a portable folder.

        Args:
            repository: ``"owner/name"``; it is created if it does not exist.
            revision: branch to push to; None is the main branch.
            private: whether a new repository is private; None is the default of its owner.
            token: with write access; None is the one of ``hf auth login``.
            message: of the commit.
            **description: ``title``, ``metrics``, ``licence`` and ``licence_text`` of
                :meth:`save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            ValueError, OSError: see :meth:`save_pretrained`.
            ConnectionError: the Hub cannot be reached, or refuses.
        """
        with TemporaryDirectory() as parent:
            folder = self.save_pretrained(Path(parent) / "model", **description)
            return push_folder(
                folder,
                repository,
                revision=revision,
                private=private,
                token=token,
                message=message,
            )


def _portable_metadata(metadata: Metadata) -> dict[str, Any]:
    """Return what drawing and results need of the metadata of classes."""
    kinds = ("thing", "stuff")
    keys = (f"{kind}_{part}" for kind in kinds for part in ("classes", "colors"))
    found = {key: list(metadata.get(key)) for key in keys if metadata.get(key) is not None}
    for key in (f"{kind}_dataset_id_to_contiguous_id" for kind in kinds):
        if metadata.get(key):
            found[key] = list(metadata.get(key).items())  # in JSON, keys are texts
    return found
