"""The models of the page: loaded at their first use, and no more of them kept than agreed."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vit_adapter.web import Models, Source, models


@pytest.fixture
def folders(tmp_path: Path) -> list[Source]:
    """The output folders of three trainings."""
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("model: {}\ntrain: {device: auto}")
        (tmp_path / name / "model_final.pth").touch()
    return [Source(str(tmp_path / name)) for name in "abc"]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The arguments of every predictor that is made, instead of the predictor."""
    calls = []

    def load(*arguments) -> SimpleNamespace:
        calls.append(arguments)
        return SimpleNamespace(source=arguments[0])

    monkeypatch.setattr(models, "LazyPredictor", load)
    return calls


def test_a_model_is_loaded_once_and_only_when_it_is_used(
    loaded: list[tuple], folders: list[Source]
) -> None:
    zoo = Source("quick_start/mask_rcnn_vit_adapter_tiny_scratch", "model.pth")
    offered = Models([zoo, folders[0], zoo], overrides=["train.device=cpu"])
    assert offered.names == [f"{zoo.config} (model.pth)", folders[0].config]
    assert loaded == []
    first = offered.get(zoo.name)
    assert offered.get(zoo.name) is first
    offered.get(folders[0].name)
    assert loaded == [
        (zoo.config, "model.pth", ["train.device=cpu"]),
        (folders[0].config, None, ["train.device=cpu"]),
    ]


def test_the_format_of_images_is_known_without_loading(loaded: list[tuple]) -> None:
    name = "quick_start/mask_rcnn_vit_adapter_tiny_scratch"
    assert Models([Source(name)]).image_format(name) == "BGR"
    assert Models([Source(name)], overrides=["model.input_channels=3"]).image_format(name) == 3
    assert loaded == []


def test_the_model_that_was_not_used_for_longest_is_dropped(
    loaded: list[tuple], folders: list[Source]
) -> None:
    a, b, c = folders
    offered = Models(folders, keep=2)
    for source in (a, b, a, c, a, b):
        assert offered.get(source.name).source == source.config
    assert [arguments[0] for arguments in loaded] == [source.config for source in (a, b, c, b)]


def test_a_model_that_cannot_be_loaded_can_be_tried_again(
    loaded: list[tuple], folders: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is away")

    offered = Models(folders[:1], keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(models, "LazyPredictor", fail)
        with pytest.raises(OSError, match="the disk is away"):
            offered.get(folders[0].name)
    assert offered.get(folders[0].name).source == folders[0].config


def test_mistakes_are_found_at_the_start(folders: list[Source], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model is given"):
        Models([])
    with pytest.raises(ValueError, match="keep at least 1"):
        Models(folders, keep=0)
    with pytest.raises(ValueError, match="expected the output of a training run"):
        Models([Source(str(tmp_path))])
    with pytest.raises(ValueError, match="Did you mean"):
        Models([Source("quick_start/mask_rcnn_vit_adapter_shape", "a.pth")])
    with pytest.raises(ValueError, match="there is no model 'x'; choose one of"):
        Models(folders).get("x")
