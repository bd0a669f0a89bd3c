"""Portable folders on the Hugging Face Hub."""

import os
import re
from pathlib import Path
from types import ModuleType

from vit_adapter import __version__
from vit_adapter.hub.folder import ALL_FILES
from vit_adapter.hub.manifest import FolderError

__all__ = ["download_folder", "push_folder"]

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def download_folder(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the folder on this machine for a path, or for the name of a repository of the Hub.

    Only the files of a portable folder are downloaded. They are kept in the Hub's cache, and are
    found there without a network.

    Args:
        name: path of a folder, or ``"owner/name"``. A folder of that name comes first.
        revision: branch, tag or commit of a repository; None is its main branch.
        cache_dir: where downloads are kept; None is the Hub's own cache folder.
        token: for a private repository; None is the one of ``hf auth login``.
        local_files_only: use the cache, and do not ask the Hub.

    Raises:
        FolderError: there is no such folder, and it is not the name of a repository.
        ConnectionError: the Hub cannot be reached, or refuses access.
        ImportError: ``huggingface_hub`` is not installed.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    repository = os.fspath(name)
    if not _REPOSITORY.fullmatch(repository):
        raise FolderError(
            f"there is no folder {repository!r} (looked from {Path.cwd()}), and it is not the name "
            "of a repository of the Hugging Face Hub, owner/name."
        )
    hub = _library()
    try:
        return Path(
            hub.snapshot_download(
                repository,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                allow_patterns=list(ALL_FILES),
                library_name="vit_adapter",
                library_version=__version__,
            )
        )
    except Exception as error:  # the library's own, and any of the HTTP client below it
        raise ConnectionError(
            f"could not get {_described(repository, revision)} from the Hugging Face Hub: "
            f"{_reason(error)}. Check the name, log in if the repository is private (hf auth "
            "login), or download the folder elsewhere and give its path."
        ) from error


def push_folder(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Add a model of vit_adapter",
) -> str:
    """Upload a portable folder to the Hugging Face Hub, in one commit.

    Args:
        folder: the folder.
        repository: ``"owner/name"``; it is created if it does not exist.
        revision: branch to push to, which must exist; None is the main branch.
        private: whether a new repository is private; None is the default of its owner.
        token: see :func:`download_folder`; it needs write access.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        FolderError: ``repository`` is not such a name.
        ConnectionError: the Hub cannot be reached, or refuses.
        ImportError: ``huggingface_hub`` is not installed.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise FolderError(f"{repository!r} is not the name of a repository, expected owner/name.")
    api = _library().HfApi(token=token, library_name="vit_adapter", library_version=__version__)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=os.fspath(folder),
            revision=revision,
            commit_message=message,
            allow_patterns=list(ALL_FILES),
        )
    except Exception as error:
        raise ConnectionError(
            f"could not push to {_described(repository, revision)} on the Hugging Face Hub: "
            f"{_reason(error)}. Check the name, and log in with a token that may write (hf auth "
            "login)."
        ) from error
    return str(commit.commit_url)


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "the Hugging Face Hub needs the package huggingface_hub, which is not installed: "
            "pip install huggingface_hub"
        ) from error
    return huggingface_hub


def _described(repository: str, revision: str | None) -> str:
    return f"{repository!r}" if revision is None else f"{repository!r} at {revision!r}"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text[:300] if text else type(error).__name__).rstrip(". ")
