"""Whether results are those of seeds of one training, from the configs in output folders."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from random_detections import make_data

from vit_adapter.comparison.results import Result, read_results
from vit_adapter.comparison.settings import Settings, read_settings
from vit_adapter.comparison.trainings import are_one_training, warn_of_mixed_trainings
from vit_adapter.evaluation.per_image import counts_file, write_counts


def write_config(folder: Path, name: str = "config.yaml", **changes) -> Path:
    """Write the config of a training or an evaluation; ``changes`` are keys with __ for dots."""
    config = OmegaConf.create(
        {
            "model": {"depth": 2},
            "train": {"seed": 0, "output_dir": str(folder), "init_checkpoint": "", "max_iter": 9},
            "optimizer": {"lr": 0.1, "decay": "${.lr}"},
            "test": {"precision": "float32"},
        }
    )
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    folder.mkdir(exist_ok=True)
    OmegaConf.save(config, folder / name)
    return folder


def result(folder: Path) -> Result:
    return Result(folder, None, None, 100, {}, settings=read_settings(folder))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train__seed": 1}, True),
        ({"train__seed": 1, "train__eval_period": 50}, True),
        ({"train__seed": -1}, True),
        ({}, False),  # the same seed: something else has changed
        ({"train__seed": 1, "optimizer__lr": 0.2}, False),
        ({"train__seed": 1, "test__precision": "bf16"}, False),
        ({"train__seed": 1, "train__init_checkpoint": "coco.pth"}, False),
    ],
)
def test_seeds_of_one_training(tmp_path, changes, expected):
    runs = [write_config(tmp_path / "a"), write_config(tmp_path / "b", **changes)]
    assert are_one_training([result(run) for run in runs]) == expected


def test_evaluations_belong_to_the_training_of_their_weights(tmp_path):
    first, second = write_config(tmp_path / "a"), write_config(tmp_path / "b", train__seed=1)
    # in the folder of the run, which has been moved since
    write_config(
        second,
        "config_eval.yaml",
        train__output_dir="/moved/b",
        train__init_checkpoint="/moved/b/model_final.pth",
    )
    elsewhere = tmp_path / "eval"
    weights = str(first / "model_final.pth")
    write_config(elsewhere, "config_eval.yaml", train__init_checkpoint=weights)
    assert are_one_training([result(elsewhere), result(second)])
    weights = str(first / "model_0000004.pth")
    write_config(elsewhere, "config_eval.yaml", train__init_checkpoint=weights)
    assert not are_one_training([result(elsewhere), result(second)])
    weights = str(tmp_path / "unknown" / "model_final.pth")
    write_config(elsewhere, "config_eval.yaml", train__init_checkpoint=weights)
    assert read_settings(elsewhere) is None
    assert not are_one_training([result(elsewhere), result(second)])


def write_files(folder, run):
    """Write annotations, and the detections of a run; return the former's file and the latter."""
    truth, found = make_data(0)
    annotations = folder / "val.json"
    images = [image | {"file_name": f"{image['id']}.png"} for image in truth["images"]]
    annotations.write_text(json.dumps(truth | {"images": images}))
    (run / "inference").mkdir()
    (run / "inference" / "coco_instances_results.json").write_text(json.dumps(found))
    return annotations, found


def test_a_folder_of_an_evaluation_has_results_and_data(tmp_path):
    folder = write_config(
        tmp_path / "eval",
        "config_eval.yaml",
        dataloader__test__dataset__names="a_set",
        dataloader__evaluator__max_dets_per_image=30,
    )
    annotations, found = write_files(tmp_path, folder)
    read = read_results(folder, annotations)
    assert read.max_detections == 30 and len(read.predictions) == len(found)
    assert read.settings is None  # of an unknown training


def test_annotations_take_the_place_of_data_that_are_gone(tmp_path):
    folder = write_config(
        tmp_path / "run",
        data={f"val_{key}": "/gone" for key in ("images", "panoptic_json", "panoptic_pngs")},
        dataloader={"test": {"dataset": {"names": "custom_val"}}, "evaluator": {}},
        task={"name": "panoptic", "num_classes": "model.depth", "thing_classes": "model.things"},
        model__things=[0, 2],
    )
    annotations, found = write_files(tmp_path, folder)
    file = counts_file(folder / "inference", "panoptic_seg")
    write_counts(file, {"1.png": np.zeros((3, 4))}, "abc")
    read = read_results(folder, annotations)
    assert read.truth == json.loads(annotations.read_text()) and read.things == (0, 2)
    with pytest.raises(ValueError, match=r"test data of .*run cannot be read, give --annotations"):
        read_results(folder)


def test_a_side_of_different_trainings_is_warned_of(caplog):
    values = {f"optimizer.k{i}": 0 for i in range(7)}
    run = Result(Path("a"), None, None, 100, {}, settings=Settings(values, 0))
    seed = replace(run, source=Path("b"), settings=Settings(values, 1))
    other = replace(run, source=Path("c"), settings=Settings({}, 1))
    with caplog.at_level(logging.WARNING, "vit_adapter"):
        warn_of_mixed_trainings([run, seed])
        assert not caplog.records
        warn_of_mixed_trainings([run, other])
    assert "a and c differ in more than the seed: optimizer.k0, " in caplog.text
    assert "optimizer.k4 and 2 more" in caplog.text
