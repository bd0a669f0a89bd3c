"""Reading checkpoint files: every format, every way in which they can be broken."""

import argparse
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vit_adapter.checkpoint.files import (
    CheckpointFileError,
    load_checkpoint_file,
    load_state_dict_file,
)
from vit_adapter.checkpoint.run_files import SET_ASIDE

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


class Marker:
    """Creates a file when it is unpickled: proof that code from a checkpoint ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def assert_weights(loaded: dict[str, torch.Tensor]) -> None:
    assert list(loaded) == list(WEIGHTS)
    for name, value in WEIGHTS.items():
        torch.testing.assert_close(loaded[name], value)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.pth.tar", "W.PTH"])
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_pytorch_files(tmp_path: Path, name: str, zipped: bool) -> None:
    torch.save(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert_weights(load_state_dict_file(tmp_path / name))


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files_are_mapped_where_their_format_allows_it(
    tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "w.pth"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    loaded = load_state_dict_file(path, mapped=True)
    unread = load_state_dict_file(path, mapped=False)
    before, after = (torch.tensor(number).numpy().tobytes() for number in (5.0, 7.0))
    path.write_bytes(path.read_bytes().replace(before, after))  # a mapped tensor shows the file
    assert loaded["a.weight"][1, 2] == (7 if zipped else 5)
    assert_weights(unread)


def test_reads_safetensors_and_npz(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **{name: value.numpy() for name, value in WEIGHTS.items()})
    loaded = load_state_dict_file(tmp_path / "w.safetensors")
    assert_weights({name: loaded[name] for name in WEIGHTS})
    assert_weights(load_state_dict_file(tmp_path / "w.npz"))


@pytest.mark.parametrize("container", ["model", "state_dict", "module"])
def test_finds_the_weights_in_a_container(tmp_path: Path, container: str) -> None:
    torch.save({"epoch": 3, container: WEIGHTS}, tmp_path / "w.pth")
    assert_weights(load_state_dict_file(tmp_path / "w.pth"))


def test_prefers_state_dict_over_model(tmp_path: Path) -> None:
    torch.save({"model": {"b": torch.ones(1)}, "state_dict": WEIGHTS}, tmp_path / "w.pth")
    assert_weights(load_state_dict_file(tmp_path / "w.pth"))


def test_strips_the_prefix_of_data_parallel_only_if_all_names_have_it(tmp_path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in WEIGHTS.items()}, tmp_path / "w.pth")
    assert_weights(load_state_dict_file(tmp_path / "w.pth"))
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "mixed.pth")
    assert list(load_state_dict_file(tmp_path / "mixed.pth")) == ["module.a", "b"]


@pytest.mark.parametrize(
    "wrapped",
    [
        "_orig_mod.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.{}",
        "module.{}",
        "_fsdp_wrapped_module.{}",
        "_orig_mod._checkpoint_wrapped_module.{}",
    ],
)
def test_names_of_wrappers_around_the_model_are_dropped(tmp_path: Path, wrapped: str) -> None:
    torch.save({wrapped.format(name): value for name, value in WEIGHTS.items()}, tmp_path / "w.pth")
    assert_weights(load_state_dict_file(tmp_path / "w.pth"))


def test_names_of_wrappers_around_a_part_are_dropped(tmp_path: Path) -> None:
    part = {"a._orig_mod.weight": WEIGHTS["a.weight"], "a.bias": WEIGHTS["a.bias"]}
    torch.save({"model": part}, tmp_path / "w.pth")
    assert_weights(load_state_dict_file(tmp_path / "w.pth"))


def test_weights_with_and_without_a_wrapper_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "_orig_mod.a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointFileError, match="'a' twice, once as '_orig_mod.a'"):
        load_state_dict_file(tmp_path / "w.pth")


def test_keeps_module_versions(tmp_path: Path) -> None:
    state_dict = torch.nn.BatchNorm2d(3).state_dict()
    torch.save({"model": state_dict}, tmp_path / "w.pth")
    assert load_state_dict_file(tmp_path / "w.pth")._metadata == state_dict._metadata


def test_reads_a_namespace_next_to_the_weights(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pth")
    assert_weights(load_state_dict_file(tmp_path / "w.pth"))


@pytest.mark.parametrize("damaged", [False, True])
def test_reading_keeps_the_classes_that_torch_may_read(tmp_path: Path, damaged: bool) -> None:
    file = tmp_path / "w.pth"
    torch.save({"model": WEIGHTS, "args": argparse.Namespace(lr=0.1)}, file)
    if damaged:
        file.write_bytes(file.read_bytes()[:-100])
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals([Marker])
    try:
        with pytest.raises(CheckpointFileError) if damaged else nullcontext():
            load_state_dict_file(file)
        assert set(torch.serialization.get_safe_globals()) == {*before, Marker}
        assert argparse.Namespace not in before
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_threads_keep_the_classes_that_torch_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.pth"
    torch.save({"model": WEIGHTS, "args": argparse.Namespace(lr=0.1)}, file)
    load, delays = torch.load, iter([0.05, 0.1, 0.15])

    def slow_load(*args: object, **options: object) -> object:
        time.sleep(next(delays))
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", slow_load)
    before = set(torch.serialization.get_safe_globals())
    with ThreadPoolExecutor(3) as threads:
        for loaded in threads.map(load_state_dict_file, [file] * 3):
            assert_weights(loaded)
    assert set(torch.serialization.get_safe_globals()) == before


def test_whole_file_is_returned_as_stored(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "iteration": 7}, tmp_path / "w.pth")
    assert load_checkpoint_file(tmp_path / "w.pth")["iteration"] == 7


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth.* does not exist"):
        load_state_dict_file(tmp_path / "nothing.pth")


def test_a_file_that_a_later_run_moved_is_named(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        (tmp_path / f"{SET_ASIDE}{number}").mkdir()
        (tmp_path / f"{SET_ASIDE}{number}" / "other.pth").touch()
    (tmp_path / f"{SET_ASIDE}2" / "w.pth").touch()
    with pytest.raises(FileNotFoundError, match=rf"may now be \S+{SET_ASIDE}2/w\.pth\. Give"):
        load_state_dict_file(tmp_path / "w.pth")


def test_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run.pth"
    folder.mkdir()
    with pytest.raises(CheckpointFileError, match=r"run\.pth.* is a folder"):
        load_state_dict_file(folder)


def test_unknown_extension_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointFileError, match=r"w\.onnx.* unknown extension.*\.safetensors"):
        load_state_dict_file(tmp_path / "w.onnx")


def test_pickle_is_refused_without_running_it(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": Marker(ran)}))
    with pytest.raises(CheckpointFileError, match="(?s)would run any code.*convert.*torch.save"):
        load_state_dict_file(tmp_path / "model.pkl")
    assert not ran.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_in_a_pytorch_file_are_refused_without_running_them(
    tmp_path: Path, zipped: bool
) -> None:
    ran = tmp_path / "ran"
    file = tmp_path / "w.pth"
    torch.save({"model": WEIGHTS, "x": Marker(ran)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointFileError, match="holds Python objects.*refused"):
        load_state_dict_file(file)
    assert not ran.exists()


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    np.savez(tmp_path / "w.npz", a=np.array([Marker(ran)], dtype=object))
    with pytest.raises(CheckpointFileError, match="object arrays"):
        load_state_dict_file(tmp_path / "w.npz")
    assert not ran.exists()


def _write_torch(file: Path) -> None:
    torch.save(WEIGHTS, file)


def _write_old_torch(file: Path) -> None:
    torch.save(WEIGHTS, file, _use_new_zipfile_serialization=False)


def _write_safetensors(file: Path) -> None:
    save_file(WEIGHTS, file)


def _write_npz(file: Path) -> None:
    np.savez(file, **{name: value.numpy() for name, value in WEIGHTS.items()})


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".pth", _write_torch),
        (".pth", _write_old_torch),
        (".safetensors", _write_safetensors),
        (".npz", _write_npz),
    ],
)
def test_truncated_file_is_named(
    tmp_path: Path, suffix: str, write: Callable[[Path], None], keep: float
) -> None:
    file = tmp_path / f"w{suffix}"
    write(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointFileError, match=rf"w\{suffix}.*damaged, incomplete"):
        load_state_dict_file(file)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_web_page_saved_as_a_checkpoint(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_text("<html><body>404: not found</body></html>" * 10)
    with pytest.raises(CheckpointFileError, match="damaged, incomplete or not in the format"):
        load_state_dict_file(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor, expected a mapping"),
        ({"model": {"a": 3}}, "stores a int under 'a', expected a tensor"),
        ({"model": {}}, "is empty"),
        ({0: torch.zeros(3)}, "has the key 0 of type int; expected"),
        ({}, "is empty"),
    ],
)
def test_content_that_is_not_a_state_dict(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointFileError, match=message):
        load_state_dict_file(tmp_path / "w.pth")


@pytest.fixture
def download_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of downloads, without a proxy: it cannot reach servers on this machine."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_url_without_a_connection(download_cache: Path) -> None:
    address = "http://127.0.0.1:9/model.pth"  # the discard port: nothing listens
    with pytest.raises(ConnectionError, match=r"could not download .*model\.pth.*give the path"):
        load_state_dict_file(address)


def test_url_is_downloaded_once(tmp_path: Path, download_cache: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "served.pth")
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            content = (tmp_path / "served.pth").read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/served.pth"
        assert_weights(load_state_dict_file(address))
        assert_weights(load_state_dict_file(address))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert requests == ["/served.pth"]
