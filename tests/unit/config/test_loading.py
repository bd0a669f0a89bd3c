"""Loading configs, and the messages for what cannot be loaded."""

from pathlib import Path

import pytest

from vit_adapter import model_zoo
from vit_adapter.config.errors import UsageError
from vit_adapter.config.loading import load_config
from vit_adapter.engine.setup import save_config

CONFIG = """
from detectron2.config import LazyCall as L
from torch import nn

model = L(nn.Linear)(in_features=2, out_features="${model.in_features}")
train = dict(max_iter=10)
"""


@pytest.fixture()
def config_file(tmp_path: Path) -> str:
    file = tmp_path / "linear_tiny.py"
    file.write_text(CONFIG)
    return str(file)


def test_overrides_are_applied(config_file: str) -> None:
    assert load_config(config_file, ["train.max_iter=3"]).train.max_iter == 3
    with pytest.raises(UsageError, match=rf"unknown key 'max_iter' .* of {config_file}"):
        load_config(config_file, ["max_iter=3"])


def test_missing_config_suggests_similar_files(config_file: str) -> None:
    wrong = config_file.replace("linear_tiny", "linear_tinny")
    with pytest.raises(UsageError, match=r"does not exist .*Did you mean linear_tiny\.py\?"):
        load_config(wrong)
    with pytest.raises(UsageError, match=r"does not exist \(looked from [^)]*\)\.$"):
        load_config(config_file.replace("linear_tiny", "mask_rcnn"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "use --config-file"),
        ("nowhere/model.py", "There is no folder 'nowhere'"),
        ("~/nowhere/model.py", f"There is no folder '{Path.home()}/nowhere'"),
        ("coco/mask_rcnn_vit_adapter_tiny_deit_3x.py", r"leave out \.py"),
        ("coco/mask_rcnn_vit_adaptor_tiny_deit_3x", "Did you mean coco/mask_rcnn_vit_adapter_tiny"),
        ("nowhere/run", f"no file or folder 'nowhere/run' either .looked from {Path.cwd()}"),
    ],
)
def test_config_that_does_not_exist(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(name)


def test_file_with_another_extension(tmp_path: Path) -> None:
    (tmp_path / "model.txt").touch()
    with pytest.raises(UsageError, match=r"must end in \.py"):
        load_config(tmp_path / "model.txt")


def test_every_way_to_name_a_config(tmp_path: Path) -> None:
    name = "quick_start/mask_rcnn_vit_adapter_shapes"
    expected = load_config(name, ["train.max_iter=3"])
    assert expected.train.max_iter == 3
    save_config(expected, str(tmp_path))
    (tmp_path / "model_final.pth").touch()
    file = model_zoo.get_config_file(name)
    assert load_config(file, ["train.max_iter=3"]) == expected == load_config(expected)
    folder = load_config(tmp_path)
    assert folder.train.init_checkpoint == str(tmp_path / "model_final.pth")
    assert folder.train.max_iter == 3


def test_output_folder_names_its_last_weights(tmp_path: Path) -> None:
    save_config(load_config("quick_start/mask_rcnn_vit_adapter_shapes"), str(tmp_path))
    for name in ("model_final.pth", "model_0000099.pth"):  # continued, and then interrupted
        (tmp_path / name).touch()
    (tmp_path / "last_checkpoint").write_text("model_0000099.pth")
    assert load_config(tmp_path).train.init_checkpoint == str(tmp_path / "model_0000099.pth")
    (tmp_path / "model_0000099.pth").unlink()
    assert load_config(tmp_path).train.init_checkpoint == str(tmp_path / "model_final.pth")


def test_output_folder_that_was_moved(tmp_path: Path) -> None:
    cfg = load_config("quick_start/mask_rcnn_vit_adapter_shapes", ["train.output_dir=elsewhere"])
    moved = tmp_path / "run ${1}"
    moved.mkdir()
    save_config(cfg, str(moved))
    (moved / "model_final.pth").touch()
    assert load_config(moved).train.output_dir == str(moved)
    assert load_config(moved, ["train.output_dir=new"]).train.output_dir == "new"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "model: [", "cannot be read as YAML"),
        ("a.yaml", "f: !!python/name:None.%3Clambda%3E ''", "give the original config file"),
        ("a.yaml", "f: !!python/name:no_such_module.f ''", "give the original config file"),
        ("a.yaml", "classes: ['${price']", r"interpolation that cannot be read: .* \\\$\{"),
        ("a.py", "data = dict(classes=['${price'])", "interpolation that cannot be read"),
    ],
)
def test_config_that_cannot_be_read(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=rf"(?s)config file {tmp_path / name} .*{message}"):
        load_config(str(tmp_path / name))


def test_error_of_a_config_in_the_model_zoo_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a file: only a name that does not exist is a mistake of the command line."""
    (tmp_path / "broken.py").write_text("raise ValueError('on purpose')")
    monkeypatch.setattr(model_zoo, "config_root", lambda: tmp_path)
    with pytest.raises(ValueError, match="on purpose") as caught:
        load_config("broken")
    assert not isinstance(caught.value, UsageError)
