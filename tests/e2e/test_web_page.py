"""The page in a headless browser; needs ``gradio``, ``playwright`` and Chromium."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_models import FakeModels, write_uploads

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from vit_adapter.web.page import Page

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        page = Page(FakeModels(), max_megapixels=1)
        yield page.launch(host="127.0.0.1", port=None, max_megabytes=1)
        page.blocks.close()


@pytest.fixture
def requested() -> list[str]:
    """The addresses of all requests of the browser."""
    return []


@pytest.fixture
def tab(address: str, requested: list[str]) -> Iterator[Any]:
    """A tab with the page, which fails the test if it asks anyone else for anything."""
    with playwright.sync_playwright() as driver:
        # Chromium refuses to run as root with its sandbox.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 1000})
        tab.on("request", lambda request: requested.append(request.url))
        tab.goto(address)
        tab.get_by_role("button", name="Predict").wait_for()
        yield tab
        browser.close()


def upload(tab: Any, file: Path) -> None:
    tab.set_input_files("input[type=file]", file)


def result(tab: Any, text: str) -> None:
    playwright.expect(tab.get_by_label("Result", exact=True)).to_have_value(text, timeout=20_000)


def choose(tab: Any, model: str) -> None:
    tab.get_by_label("Model").click()
    tab.get_by_role("option", name=model).click()


def test_a_visit(tab: Any, address: str, requested: list[str], tmp_path: Path) -> None:
    files = write_uploads(tmp_path)
    upload(tab, files["good.png"])
    result(tab, "good.png: 60 x 40 pixels")
    tab.get_by_role("button", name="Predict").click()
    result(tab, "good.png, halves: 1 found")
    assert tab.get_by_role("gridcell").all_inner_texts()[:2] == ["half", "0.7"]

    first = tab.locator("img").get_attribute("src")
    tab.get_by_role("radio", name="Masks", exact=True).click()
    playwright.expect(tab.locator("img")).not_to_have_attribute("src", first)
    tab.get_by_role("spinbutton").fill("0.2")
    tab.get_by_role("spinbutton").press("Enter")
    result(tab, "good.png, halves: 2 found")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download as JSON").click()
    assert download.value.suggested_filename == "predictions.json"
    assert len(json.loads(Path(download.value.path()).read_text())) == 2

    choose(tab, "sides")
    tab.get_by_role("button", name="Predict").click()
    result(tab, "good.png, sides: 2 found")
    assert tab.get_by_role("radio").count() == tab.get_by_label("Semantic").count() == 1
    assert len(requested) > 20
    assert [url for url in requested if not url.startswith((address, "data:", "blob:"))] == []


def test_mistakes_are_shown_on_the_page(tab: Any, tmp_path: Path) -> None:
    files = write_uploads(tmp_path)
    tab.get_by_role("button", name="Predict").click()
    tab.get_by_text("There is no image yet. Upload one first.").wait_for()
    upload(tab, files["broken.png"])
    tab.get_by_text("broken.png cannot be read").wait_for()
    tab.reload()
    upload(tab, files["large.png"])
    tab.get_by_text("1.2 megapixels. This page takes up to 1.").wait_for()
    tab.reload()
    upload(tab, files["good.png"])
    result(tab, "good.png: 60 x 40 pixels")
    choose(tab, "broken")
    tab.get_by_role("button", name="Predict").click()
    tab.get_by_text("the weights do not fit <the model>").wait_for()
