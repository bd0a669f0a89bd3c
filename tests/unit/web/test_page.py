"""The page in Gradio, called over HTTP as a browser would call it; needs ``gradio``."""

import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fake_models import FakeModels, write_uploads

pytest.importorskip("gradio")
# A library that Gradio brings.
client = pytest.importorskip("gradio_client")
httpx = pytest.importorskip("httpx")

from vit_adapter.web import page  # noqa: E402


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a page whose files are in a folder; yield its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        shown = page.Page(FakeModels(), max_megapixels=1)
        try:
            yield shown.launch(host="127.0.0.1", port=None, max_megabytes=1)
        finally:
            shown.blocks.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("cache")) as address:
        yield address


@pytest.fixture
def visitor(address: str) -> "client.Client":
    return client.Client(address, verbose=False)


@pytest.fixture
def uploads(tmp_path: Path) -> dict[str, Path]:
    return write_uploads(tmp_path)


def predict(visitor: "client.Client", file: Path | None, model: str, threshold: float = 0.5):
    given = None if file is None else client.handle_file(file)
    return visitor.predict(given, model, threshold, api_name="/predict")


def test_prediction(visitor: "client.Client", uploads: dict[str, Path]) -> None:
    view, slider, picture, status, rows, file = predict(visitor, uploads["good.png"], "halves")
    assert view["value"] == "Boxes and masks" and len(view["choices"]) == 3
    assert slider["interactive"] and Path(picture).is_file()
    assert status == "good.png, halves: 1 found"
    assert rows["data"] == [["half", 0.7, 0.0, 0.0, 30.0, 40.0]]
    (entry,) = json.loads(Path(file["value"]).read_text())
    assert entry["bbox"] == [0, 0, 30, 40] and entry["score"] == pytest.approx(0.7)

    changed = visitor.predict("Boxes", 0.2, api_name="/show")
    assert changed[1] == "good.png, halves: 2 found"
    assert len(json.loads(Path(changed[3]["value"]).read_text())) == 2

    view, slider, _, status, rows, _ = predict(visitor, uploads["good.png"], "sides")
    assert view["value"] == "Semantic" and status == "good.png, sides: 2 found"
    assert not slider["interactive"]  # no class of pixels has a score
    given = client.handle_file(uploads["good.png"])
    _, slider, *_ = visitor.predict(given, "halves", api_name="/show_upload")
    assert slider["interactive"]
    assert rows["data"] == [["left", 1200], ["right", 1200]]


def test_images_of_five_channels(visitor: "client.Client", tmp_path: Path) -> None:
    file = tmp_path / "five.npy"
    np.save(file, np.zeros((40, 60, 5), np.uint16))
    shown = visitor.predict(client.handle_file(file), "five", api_name="/show_upload")
    assert "five.npy: 60 x 40 pixels" in shown
    assert predict(visitor, file, "five")[3] == "five.npy, five: 2 found"
    with pytest.raises(client.exceptions.AppError, match="five.npy cannot be read"):
        predict(visitor, file, "sides")


def test_results_are_those_of_the_visitor(
    address: str, visitor: "client.Client", uploads: dict[str, Path]
) -> None:
    predict(visitor, uploads["good.png"], "halves")
    other = client.Client(address, verbose=False)
    assert predict(other, uploads["good.png"], "sides")[3] == "good.png, sides: 2 found"
    assert visitor.predict("Boxes", 0.5, api_name="/show")[1] == "good.png, halves: 1 found"


@pytest.mark.parametrize(
    ("file", "model", "message"),
    [
        (None, "halves", "There is no image yet"),
        ("broken.png", "halves", "broken.png cannot be read"),
        ("large.png", "halves", "1.2 megapixels. This page takes up to 1."),
        ("notes.txt", "halves", "Invalid file type"),
        ("good.png", "broken", "the weights do not fit &lt;the model&gt;"),
        ("good.png", "other", "other"),
    ],
)
def test_mistakes_have_messages(
    visitor: "client.Client", uploads: dict[str, Path], file: str | None, model: str, message: str
) -> None:
    with pytest.raises(client.exceptions.AppError, match=re.escape(message)):
        predict(visitor, uploads.get(file), model)


def test_files_are_deleted_after_a_while(
    uploads: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(page, "_KEEP_SECONDS", 3)
    with served(folder / "gradio") as address:
        visitor = client.Client(address, verbose=False)
        file = predict(visitor, uploads["good.png"], "halves")[-1]
        assert Path(file["value"]).name == "predictions.json"
        end = time.monotonic() + 20
        # Gradio also leaves an empty file without an ending for each upload.
        while left := [path for path in folder.rglob("*.*") if path.is_file()]:
            assert time.monotonic() < end, left
            time.sleep(0.2)


def test_nothing_comes_from_elsewhere_and_no_other_file_is_served(
    address: str, uploads: dict[str, Path]
) -> None:
    text = httpx.get(address).text + httpx.get(f"{address}theme.css").text
    loaded = re.findall(
        r"""(?:<(?:script|link|img)[^>]*(?:src|href)=|url\()["']?(https?://[^"')]+)""", text
    )
    assert [url for url in loaded if not url.startswith(address)] == []
    assert "font-face" not in text
    assert httpx.get(f"{address}gradio_api/file={uploads['good.png']}").status_code == 403
    large = {"files": ("large.png", bytes(2 * 1024 * 1024))}
    assert httpx.post(f"{address}gradio_api/upload", files=large).status_code == 413
