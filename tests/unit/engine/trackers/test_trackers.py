"""What the trackers send, and what happens when they fail."""

import json
import os
import sys
from pathlib import Path

import pytest

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.trackers import build_trackers, check_trackers


def build(config, folder, *, resumed=False, failed=False, **trackers):
    return build_trackers(config(**trackers), folder, resumed=resumed, failed=lambda: failed)


def test_nothing_without_being_asked(config, folder) -> None:
    cfg = config()
    check_trackers(cfg)
    assert build(config, folder) == []
    cfg.train.wandb = {"enabled": False, "params": {}}
    check_trackers(cfg)
    assert build_trackers(cfg, folder, resumed=False, failed=bool) == []


def test_wandb_gets_everything_once_with_its_iteration(wandb, config, folder, write_run) -> None:
    (writer,) = build(config, folder, wandb={"project": "p", "name": ""})
    write_run([writer], 0, 5)
    ((arguments,),) = wandb.named("init")
    assert arguments == dict(project="p", id=None, dir=folder, mode=None, tags=None)
    assert wandb.named("axis") == [("*", "iteration")]
    sent = [values for (values,) in wandb.named("log")]
    assert [(v["iteration"], v["loss"]) for v in sent if "loss" in v] == [
        (1, 1.0),
        (3, 3.0),
        (4, 4.0),
    ]
    (with_image,) = [values for values in sent if "shown" in values]
    assert with_image["iteration"] == 2 and with_image["bbox/AP-a, b"] == 12.5
    assert with_image["shown"] == ("image", (4, 6, 3), "uint8")
    assert [values["iteration"] for values in sent] == sorted(v["iteration"] for v in sent)
    ((plain,),) = wandb.named("config")
    assert plain["model"] == {"_target_": "numpy.zeros", "shape": 3, "more": [3]}
    assert wandb.named("finish") == [(0,)]


def test_mlflow_gets_everything_once_with_its_iteration(mlflow, config, folder, write_run) -> None:
    params = dict(tracking_uri="http://server", experiment_name="e", run_name="")
    (writer,) = build(config, folder, mlflow=params)
    write_run([writer], 0, 5)
    assert mlflow.named("set_tracking_uri") == [("http://server",)]
    assert mlflow.named("set_experiment") == [("e",)]
    assert mlflow.named("start_run") == [(None, None)]
    ((sent,),) = mlflow.named("log_params")
    assert sent["model.shape"] == 3 and sent["model._target_"] == "numpy.zeros"
    ((text, file),) = mlflow.named("log_text")
    assert file == "config.yaml" and "max_iter: 5" in text
    # MLflow refuses a comma in a name.
    assert mlflow.named("metrics") == [
        (1, {"loss": 1.0}),
        (2, {"bbox/AP-a_ b": 12.5}),
        (3, {"loss": 3.0}),
        (4, {"loss": 4.0}),
    ]
    assert mlflow.named("image") == [(2, "shown", (4, 6, 3), "uint8")]
    assert mlflow.named("end_run") == [("FINISHED",)]


def test_failed_run_is_marked(wandb, mlflow, config, folder, write_run) -> None:
    write_run(build(config, folder, failed=True, wandb={}, mlflow={}), 0, 2)
    assert wandb.named("finish") == [(1,)]
    assert mlflow.named("end_run") == [("FAILED",)]


def test_resume_continues_the_same_run(wandb, mlflow, config, folder, write_run) -> None:
    both = dict(wandb={}, mlflow={})
    write_run(build(config, folder, **both), 0, 2)
    stored = json.loads((Path(folder) / "trackers.json").read_text())
    assert stored == {"wandb": "wandb0", "mlflow": "mlflow0"}
    write_run(build(config, folder, resumed=True, **both), 2, 4)
    assert [arguments["id"] for (arguments,) in wandb.named("init")] == [None, "wandb0"]
    assert [run_id for run_id, _ in mlflow.named("start_run")] == [None, "mlflow0"]
    assert len(mlflow.named("log_params")) == 1  # MLflow refuses other values later
    assert len(mlflow.named("log_text")) == 2
    build(config, folder, **both)  # a new run in a folder with the file of an old one
    assert [arguments["id"] for (arguments,) in wandb.named("init")][-1] is None
    stored = json.loads((Path(folder) / "trackers.json").read_text())
    assert stored == {"wandb": "wandb1", "mlflow": "mlflow1"}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_failure_is_said_once_and_stops_nothing(
    name, request, config, folder, write_run, caplog
) -> None:
    library = request.getfixturevalue(name)
    writers = build(config, folder, **{name: {}})
    library.error = ConnectionError("the server is gone")
    write_run(writers, 0, 5)
    (record,) = caplog.records
    assert "the server is gone" in record.message and "metrics.json" in record.message
    library.error = None
    for writer in writers:
        writer.close()
    assert not library.named("finish") and not library.named("end_run")


def test_wandb_records_offline_what_it_cannot_send(
    wandb, config, folder, write_run, caplog
) -> None:
    wandb.has_no_network = True
    (writer,) = build(config, folder, wandb={})
    assert wandb.named("init")[-1][0]["mode"] == "offline"
    assert "no network" in caplog.text
    assert f"wandb sync {folder}/wandb/offline-run" in caplog.text
    write_run([writer], 0, 2)
    assert wandb.named("log")


def test_mlflow_that_cannot_be_reached_is_left_out(mlflow, config, folder, caplog) -> None:
    mlflow.error = ConnectionError("refused")
    assert build(config, folder, mlflow={"experiment_name": "e"}) == []
    assert "refused" in caplog.text and "trained without it" in caplog.text


def test_mlflow_does_not_wait_for_long(mlflow, config, folder, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    build(config, folder, mlflow={})
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "20"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"  # the user's choice


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_library_is_an_error_with_the_command(name, config, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(UsageError, match=f"train.{name}.enabled=True needs .*pip install {name}"):
        check_trackers(config(**{name: {}}))


@pytest.mark.parametrize(("name", "function"), [("wandb", "init"), ("mlflow", "start_run")])
def test_unknown_parameter(name, function, request, config) -> None:
    request.getfixturevalue(name)
    check_trackers(config(**{name: {"tags": ["a"]}}))
    with pytest.raises(UsageError, match=f"has projct, which {name}.{function} does not know"):
        check_trackers(config(**{name: {"projct": "p"}}))
