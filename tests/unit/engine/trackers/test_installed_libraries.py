"""The trackers with the libraries themselves, without a network, where they are installed."""

import json
from pathlib import Path

import pytest

from vit_adapter.engine.trackers import build_trackers, check_trackers


def test_wandb_offline(config, folder, write_run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    cfg = config(wandb={"project": "p", "mode": "offline"})
    check_trackers(cfg)
    for start, stop in ((0, 5), (5, 7)):
        (writer,) = build_trackers(cfg, folder, resumed=start > 0, failed=lambda: False)
        write_run([writer], start, stop)
    run_id = json.loads((Path(folder) / "trackers.json").read_text())["wandb"]
    runs = sorted((Path(folder) / "wandb").glob("offline-run-*"))
    assert [run.name.endswith(run_id) for run in runs] == [True, True]
    assert b"bbox/AP-a, b" in (runs[0] / f"run-{run_id}.wandb").read_bytes()
    assert len(list((runs[0] / "files/media/images").glob("shown_*.png"))) == 1


@pytest.mark.slow
def test_mlflow_in_files(config, folder, write_run, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # quicker than a database
    uri = f"file:{folder}/store"
    cfg = config(mlflow={"tracking_uri": uri, "experiment_name": "e", "tags": {"a": "b"}})
    check_trackers(cfg)
    for start, stop in ((0, 5), (5, 7)):
        (writer,) = build_trackers(cfg, folder, resumed=start > 0, failed=lambda: False)
        write_run([writer], start, stop)
    run_id = json.loads((Path(folder) / "trackers.json").read_text())["mlflow"]
    client = mlflow.MlflowClient(uri)
    history = [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")]
    assert history == [(1, 1.0), (3, 3.0), (4, 4.0), (5, 5.0), (6, 6.0)]
    assert client.get_metric_history(run_id, "bbox/AP-a_ b")[0].value == 12.5
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.data.params["model.shape"] == "3"
    files = [file.path for file in client.list_artifacts(run_id)]
    assert "config.yaml" in files and "images" in files
