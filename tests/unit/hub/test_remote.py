"""Pushing folders to a stand-in for the Hugging Face Hub, and downloading them from it."""

import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from vit_adapter.hub import FolderError, download_folder, push_folder, read_folder


def test_what_was_pushed_is_downloaded_checked_and_kept(
    fake_hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "evil.py").write_text("print('not a file of the model')")
    url = push_folder(folder, "owner/cells", private=True, token="hf_x")
    assert url == f"{fake_hub.address}/owner/cells/commit/{fake_hub.commit_of('owner/cells')}"
    assert fake_hub.private == {"owner/cells": True}
    pushed = fake_hub.repositories["owner/cells"]
    assert set(pushed) == {path.name for path in folder.iterdir()} - {"evil.py"}
    pushed["code.py"] = b"raise SystemExit"
    found = download_folder("owner/cells")
    assert {path.name for path in found.iterdir()} == set(pushed) - {"code.py"}
    assert read_folder(found).classes == {"thing_classes": ["cell"]}
    assert not any(path.endswith(".py") for path in fake_hub.requested)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # from the cache
    asked = len(fake_hub.requested)
    assert download_folder("owner/cells") == found
    assert download_folder("owner/cells", local_files_only=True) == found
    assert len(fake_hub.requested) == asked


def test_a_folder_comes_before_a_repository_of_its_name(
    fake_hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owner/cells").mkdir(parents=True)
    assert download_folder("owner/cells") == Path("owner/cells")
    assert not fake_hub.requested


@pytest.mark.parametrize("name", ["nowhere", "/absent/model", "a/b/c", "../x", "o/n@1"])
def test_names_of_neither_a_folder_nor_a_repository(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FolderError, match="no folder .*owner/name"):
        download_folder(name)
    with pytest.raises(FolderError, match="expected owner/name"):
        push_folder(tmp_path, name)


def test_what_the_hub_does_not_have(fake_hub, folder: Path) -> None:
    with pytest.raises(ConnectionError, match="'owner/none' from the Hugging Face Hub.*hf auth"):
        download_folder("owner/none")
    push_folder(folder, "owner/cells")
    with pytest.raises(ConnectionError, match="'owner/cells' at 'v9'.*Check the name"):
        download_folder("owner/cells", revision="v9")
    with pytest.raises(ConnectionError, match="could not get 'owner/other'"):
        download_folder("owner/other", local_files_only=True)


def test_a_hub_that_cannot_be_reached(fake_hub, folder: Path) -> None:
    fake_hub.shutdown()
    fake_hub.server_close()
    with pytest.raises(ConnectionError, match="could not get 'owner/cells'"):
        download_folder("owner/cells")
    with pytest.raises(ConnectionError, match="could not push to 'owner/cells'.*log in") as error:
        push_folder(folder, "owner/cells")
    assert str(folder) not in str(
        error.value
    )  # it may be a temporary one, which the caller deletes


def test_without_the_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        download_folder("owner/cells")
