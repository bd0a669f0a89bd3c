"""The model card, read as the Hugging Face Hub reads it."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from vit_adapter.hub import FolderContents
from vit_adapter.hub.card import licence_note, model_card


@pytest.fixture
def contents(contents: FolderContents) -> FolderContents:
    contents.config["dataloader"]["test"]["mapper"] = {"image_format": "RGB"}
    return contents


def test_metadata_are_those_that_the_hub_knows(contents: FolderContents) -> None:
    card = ModelCard(model_card(contents, title='Cells: "5 %"', licence="cc-by-4.0"))
    assert card.data.library_name == "vit_adapter"
    assert card.data.license == "cc-by-4.0"
    assert card.data.pipeline_tag == "object-detection"
    assert {"vit-adapter", "detectron2"} <= set(card.data.tags)
    assert card.data.model_name == 'Cells: "5 %"'
    (result,) = card.data.eval_results
    assert (result.metric_name, result.metric_type, result.metric_value) == ("bbox/AP", "AP", 12.5)
    assert (result.dataset_name, result.task_type) == ("custom", "object-detection")


def test_text_names_classes_results_and_statistics(contents: FolderContents) -> None:
    text = model_card(contents, title="Cells")
    for part in ("`cell`", "| bbox | AP | 12.50 |", "[1.5, 2.0, 3.0]", "RGB", "from_pretrained"):
        assert part in text
    assert "AP50" not in text and "AP-cell" not in text  # unknown, and of one class


def test_unknown_results_classes_and_licence(contents: FolderContents) -> None:
    card = ModelCard(model_card(replace(contents, metrics={}, classes={}), title="Cells"))
    assert card.data.eval_results is None and card.data.license == "other"
    assert "None are given" in card.text and "names are unknown" in card.text
    assert "was not stated" in licence_note("", "")


def test_licence_note() -> None:
    assert licence_note("cc0-1.0", "Data: DSB.") == (
        "# Licence\n\nLicence of the weights: cc0-1.0\n\nData: DSB.\n"
    )
