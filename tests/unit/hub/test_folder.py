"""Portable folders: written whole or not at all, and every change is noticed."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vit_adapter.hub import FolderContents, FolderError, is_portable, read_folder, write_folder

WEIGHTS = {"weight": torch.zeros(2)}
TEXTS = {"card": "card\n", "licence": "note\n"}


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_is_written_is_read(folder: Path, contents: FolderContents) -> None:
    found = read_folder(folder)
    assert callable(found.config["model"].pop("_target_"))
    contents.config["model"].pop("_target_")
    assert replace(found, weights=None) == contents
    assert found.weights == folder / "model.safetensors"
    assert load_file(found.weights)["weight"].tolist() == list(range(6))
    assert is_portable(folder) and not is_portable(folder.parent)
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1  # the weights can be read by whom the config can


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", "GeneralizedRCNN", "ProposalNetwork"),
        ("classes.json", "cell", "bell"),
        ("preprocessing.json", "1.5", "1.6"),
        ("metrics.json", "12.5", "99.5"),
    ],
)
def test_a_value_altered_by_hand_is_refused(folder: Path, name: str, old: str, new: str) -> None:
    file = folder / name
    expected = json.loads((folder / "manifest.json").read_text())["files"][name]["sha256"]
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(FolderError, match=f"{name} was altered or damaged") as caught:
        read_folder(folder)
    assert expected in str(caught.value) and "tools/package_model.py" in str(caught.value)


def test_weights_altered_by_hand_are_refused(folder: Path) -> None:
    with open(folder / "model.safetensors", "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    with pytest.raises(FolderError, match=r"model.safetensors was altered.*SHA-256 is \w{64}"):
        read_folder(folder)


def test_texts_for_people_may_be_edited_and_other_files_added(folder: Path) -> None:
    (folder / "README.md").write_text("another card")
    (folder / "LICENSE.md").unlink()
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    read_folder(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "classes.json"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FolderError, match=f"has no file {name}"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=2), "format_version 2, but vit_adapter .* newer"),
        (lambda m: m.update(format_version="1"), "format_version '1', expected a whole number"),
        (lambda m: m.update(format="other"), "format 'other', expected 'vit_adapter.portable"),
        (lambda m: m.pop("files"), "no list of files"),
        (lambda m: m["files"].pop("metrics.json"), "does not list metrics.json"),
        (lambda m: m["files"].update({"config.json": {}}), "no sha256 for .*config.json"),
        (lambda m: m["files"].update({"../a": {"sha256": ""}}), r"lists the file '\.\./a'"),
        (lambda m: m["files"].update({"/etc/passwd": {"sha256": ""}}), "the file '/etc/passwd'"),
        (lambda m: m["files"].update({"..": {"sha256": ""}}), r"lists the file '\.\.'"),
        (lambda m: m["files"].update({"c:x": {"sha256": ""}}), "lists the file 'c:x'"),
    ],
)
def test_manifests_that_cannot_be_used(
    folder: Path, change: Callable[[dict], object], message: str
) -> None:
    edit(folder / "manifest.json", change)
    with pytest.raises(FolderError, match=message):
        read_folder(folder)


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000])
def test_manifests_that_are_no_json_object(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(FolderError, match="manifest.json (is not a JSON file|holds a list)"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_links_out_of_the_folder_are_refused(folder: Path, name: str) -> None:
    outside = folder.parent / "elsewhere"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(FolderError, match=f"{name} is a link to .*elsewhere, outside"):
        read_folder(folder)
    outside.rename(folder / "inside")
    (folder / name).unlink()
    (folder / name).symlink_to("inside")
    read_folder(folder)


def test_a_broken_link_is_not_the_output_of_a_training(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("nowhere")
    assert is_portable(folder)
    with pytest.raises(FolderError, match="has no file manifest.json"):
        read_folder(folder)


class TestWriting:
    def test_a_name_in_use_is_left_alone(self, tmp_path: Path, contents: FolderContents) -> None:
        (tmp_path / "notes.txt").write_text("kept")
        for force in (False, True):
            with pytest.raises(FileExistsError, match="not a portable folder"):
                write_folder(tmp_path, contents, WEIGHTS, **TEXTS, force=force)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_a_portable_folder_is_replaced_on_request(
        self, folder: Path, contents: FolderContents
    ) -> None:
        with pytest.raises(FileExistsError, match="--force"):
            write_folder(folder, contents, WEIGHTS, **TEXTS)
        (folder / "old").touch()
        write_folder(folder, contents, WEIGHTS, **TEXTS, force=True)
        assert load_file(read_folder(folder).weights)["weight"].shape == (2,)
        assert not (folder / "old").exists()
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    def test_an_interrupted_write_leaves_nothing(
        self, tmp_path: Path, contents: FolderContents, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("vit_adapter.hub.folder.write_manifest", full)
        with pytest.raises(OSError, match="No space left"):
            write_folder(tmp_path / "model", contents, WEIGHTS, **TEXTS)
        assert not list(tmp_path.iterdir())

    def test_a_config_that_could_not_be_read_is_not_written(
        self, tmp_path: Path, contents: FolderContents
    ) -> None:
        contents.config["model"]["_target_"] = "my_package.MyModel"
        with pytest.raises(FolderError, match="config.model._target_ is 'my_package.MyModel'"):
            write_folder(tmp_path / "model", contents, WEIGHTS, **TEXTS)
        assert not list(tmp_path.iterdir())
