"""The notebooks run from the first cell to the last."""

import io
import os
import re
from base64 import b64decode
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from nbclient import NotebookClient
from PIL import Image

import vit_adapter
from vit_adapter import LazyPredictor
from vit_adapter.data import generate_shapes

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PROJECT = Path(vit_adapter.__file__).parents[1]
NOTEBOOKS = PROJECT / "notebooks"
CONFIG = "quick_start/mask_rcnn_vit_adapter_shapes"
# Makes the predictor's data set small, which importing the package registers.
SMALL_DATA = (
    "from vit_adapter.data import register_shapes\n\nregister_shapes(num_train=1, num_val=1)"
)
# Makes the training small.
TINY = [
    "model.backbone.bottom_up.vit.embed_dim=48",
    "model.backbone.out_channels=32",
    "model.roi_heads.box_head.fc_dims=[32,32]",
    "model.roi_heads.mask_head.conv_dims=[32,32]",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
    "model.roi_heads.box_predictor.test_topk_per_image=5",
    "dataloader.train.mapper.augmentations.short_edges=[64]",
    "dataloader.test.mapper.augmentations.short_edges=[64]",
    "dataloader.train.total_batch_size=2",
    "train.device=cpu",
    "train.log_period=1",
]


def execute(name, folder, **additions):
    """Execute a notebook in a folder, with lines added to cells; return the cells by id."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    for cell, lines in additions.items():
        cells[cell].source += f"\n{lines}"
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return cells


def text(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def picture(cell):
    (data,) = [output.data for output in cell.outputs if output.output_type == "execute_result"]
    return Image.open(io.BytesIO(b64decode(data["image/png"]))).convert("RGB")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with only the data set, and an environment in which the notebook finds the package.

    Jupyter and IPython usually keep files in the home folder, which may be read-only.
    """
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=os.pathsep)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND")  # so that plots are shown in the notebook
    generate_shapes(tmp_path / "datasets" / "shapes", num_train=1, num_val=1)
    return tmp_path


def test_without_weights_it_warns_that_the_boxes_are_meaningless(folder):
    cells = execute("predictor", folder, parameters="MIN_SCORE = 0.99", imports=SMALL_DATA)
    assert "random start" in text(cells["model"])
    assert "circle, square, triangle" in text(cells["model"])
    shown = np.asarray(picture(cells["image"]).resize((128, 128), Image.Resampling.NEAREST))
    (file,) = (folder / "datasets" / "shapes" / "val").glob("*.png")
    assert np.array_equal(shown, np.asarray(Image.open(file)))
    assert picture(cells["drawing"]).size == (640, 640)


def test_weights_in_the_output_folder_are_used(folder):
    torch.manual_seed(0)
    predictor = LazyPredictor(CONFIG, overrides=["train.device=cpu"])
    # Six confident boxes of class 1, at any position.
    heads = predictor.model.roi_heads.box_predictor
    torch.nn.init.zeros_(heads.cls_score.weight)
    heads.cls_score.bias.data = torch.tensor([0.0, 9.0, 0.0, 0.0])
    predictor.cfg.model.roi_heads.box_predictor.test_topk_per_image = 6
    (folder / "trained").mkdir()
    LazyConfig.save(predictor.cfg, str(folder / "trained" / "config.yaml"))
    torch.save({"model": predictor.model.state_dict()}, folder / "trained" / "model_final.pth")

    cells = execute("predictor", folder, parameters='OUTPUT = "trained"', imports=SMALL_DATA)
    assert "weights of trained" in text(cells["model"])
    lines = text(cells["prediction"]).splitlines()
    assert len(lines) == 6
    assert all(line.startswith("square     1.00  box (") for line in lines)
    plain = picture(cells["image"])
    difference = np.asarray(picture(cells["drawing"])).astype(int) - np.asarray(plain)
    assert (np.abs(difference).sum(axis=2) > 50).mean() > 0.01


def test_training_on_own_data(folder):
    generate_shapes(folder / "my", num_train=4, num_val=2, image_size=64)
    cells = execute(
        "train_own_data",
        folder,
        parameters=f'DATA, OUTPUT, EPOCHS, OVERRIDES = "my", "run", 1, {TINY}',
        imports="generate_shapes = lambda *args, **kwargs: None  # the data are there",
    )
    assert "my/annotations/instances_train.json: 4 images" in text(cells["paths"])
    assert text(cells["paths"]).count("classes: circle, square, triangle") == 2
    assert picture(cells["look"]).size == (320 + 8 + 320, 320 + 8 + 320)
    assert "train.epochs=1 --dry-run" in text(cells["check"])
    assert text(cells["check"]).endswith("exit status: 0\n")
    assert re.findall(r"^(\S+): .* at iteration (\d)$", text(cells["results"]), re.MULTILINE) == [
        ("total_loss", "1"),
        ("bbox/AP", "2"),
        ("segm/AP", "2"),
    ]
    assert "segm/AP: " in text(cells["continuing"]) and "at iteration 6" in text(
        cells["continuing"]
    )
    assert picture(cells["results"]).size != picture(cells["prediction"]).size
    assert text(cells["prediction"]).count("objects") == 2
    assert (folder / "run" / "model_final.pth").is_file()


@pytest.mark.parametrize("name", ["predictor", "train_own_data"])
def test_stored_notebooks_have_no_results(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(codes) >= 5
    assert all(not cell.outputs and cell.execution_count is None for cell in codes)
