"""``train_net.py`` in two processes."""

import json
import os
import re
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked
import pytest
import torch
from runs import ROOT, finish, losses_by_iteration, metrics, run_two_processes, start

from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")

EXACT = [
    # Every anchor and every proposal is used, so nothing depends on random sampling.
    "model.proposal_generator.batch_size_per_image=100000",
    "model.proposal_generator.positive_fraction=1.0",
    "model.roi_heads.batch_size_per_image=100000",
    "model.roi_heads.positive_fraction=1.0",
    # Statistics of the joint batch in the adapter and in the pyramid.
    "model.backbone.bottom_up.norm=SyncBN",
    "model.backbone.norm=SyncBN",
    "model.backbone.bottom_up.vit.drop_path_rate=0.0",
    # No flips, so that the same image twice stays the same.
    "dataloader.train.mapper.augmentations._target_=vit_adapter.data.resize",
    "data.val_json=",
    "data.val_images=",
    "train.max_iter=1",
]


def first_losses(folder: Path) -> dict[str, float]:
    (entry,) = [entry for entry in metrics(folder) if "total_loss" in entry]
    return {name: value for name, value in entry.items() if "loss" in name}


def one_image(shapes: Path, file: Path) -> Path:
    """A data set with the same image twice."""
    content = json.loads((shapes / "annotations/instances_train.json").read_text())
    image = content["images"][0]
    annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    twin = image | {"id": 10**6}
    twins = [a | {"image_id": twin["id"], "id": a["id"] + 10**6} for a in annotations]
    content |= {"images": [image, twin], "annotations": annotations + twins}
    file.write_text(json.dumps(content))
    return file


def confident_weights(command: list[str], folder: Path) -> Path:
    """Weights whose losses depend on the image; new heads predict the same for all images."""
    main([*command, "train.max_iter=1", f"train.output_dir={folder}"])
    model = load_checkpoint_file(folder / "model_final.pth")["model"]
    for name, value in model.items():
        if name.startswith(("proposal_generator.", "roi_heads.")) and value.dim() > 1:
            value *= 4
    torch.save(model, folder / "confident.pth")
    return folder / "confident.pth"


def test_two_processes_compute_the_losses_of_one(
    command: list[str], shapes: Path, tmp_path: Path
) -> None:
    """The same total batch of two images, in one process or one image in each of two processes.

    Detectron2 normalises the losses of the region heads by the number of regions in a process and
    averages over the processes. With the same image twice, both processes have equally many, so the
    average is that of the joint batch and every loss must agree ("same").

    With two different images, sampler and batch norm must work together ("different"). The losses
    of the proposal network are normalised by the number of sampled anchors in a process, which is
    nearly the same here, and must nearly agree. With a separate batch norm for each process
    ("unsynchronised") they do not, so the comparison would detect a difference.

    With counts over both processes ("global"), all losses of the two images must agree.

    torchrun gives exactly the same as --num-gpus, and only the main process writes.
    """
    plain_norm = ["model.backbone.norm=BN", "model.backbone.bottom_up.norm=BN"]
    variants = {
        "same": [f"data.train_json={one_image(shapes, tmp_path / 'one.json')}"],
        "different": [],
        "unsynchronised": plain_norm,
        "global": ["train.loss_normalization=global"],
    }
    weights = confident_weights(command, tmp_path / "base")
    commands = []
    for name, overrides in variants.items():
        overrides = [*command, *EXACT, *overrides, f"train.init_checkpoint={weights}"]
        main([*overrides, f"train.output_dir={tmp_path / name / 'single'}"])
        commands.append([*overrides, f"train.output_dir={tmp_path / name / 'double'}"])
    run_two_processes(commands)
    torchrun = tmp_path / "different/torchrun"
    output = finish(
        start(
            [*command, *EXACT, f"train.init_checkpoint={weights}", f"train.output_dir={torchrun}"],
            launcher=TORCHRUN,
        )
    )
    assert output.count("Saving checkpoint to") == 1

    found = {
        name: [first_losses(tmp_path / name / kind) for kind in ("single", "double")]
        for name in variants
    }
    single, double = found["same"]
    assert {"loss_cls", "loss_box_reg", "loss_mask", "total_loss"} <= set(single)
    assert double == pytest.approx(single, rel=1e-4)
    single, double = found["different"]
    for name in ("loss_rpn_cls", "loss_rpn_loc"):
        assert double[name] == pytest.approx(single[name], rel=2e-3)
    assert first_losses(torchrun) == double
    assert sorted(file.name for file in torchrun.glob("*.pth")) == ["model_final.pth"]
    models = [
        load_checkpoint_file(folder / "model_final.pth")["model"]
        for folder in (torchrun, torchrun.with_name("double"))
    ]
    torch.testing.assert_close(*models, rtol=0, atol=0)
    assert double["loss_rpn_loc"] != pytest.approx(single["loss_rpn_loc"], rel=1e-5)
    single, double = found["global"]
    assert double == pytest.approx(single, rel=1e-5)
    single, double = found["unsynchronised"]
    assert double["loss_rpn_loc"] != pytest.approx(single["loss_rpn_loc"], rel=1e-2)


def test_two_processes_train_and_evaluate(command: list[str], tmp_path: Path) -> None:
    output = finish(start([*command, "--num-gpus", "2", "train.epochs=1"]))
    run = tmp_path / "run"
    assert "Process 0 of 2" in output
    trained = json.loads((run / "results.json").read_text())
    assert sorted(losses_by_iteration(run)) == [0, 1, 2]
    for log in ("log.txt", "log.txt.rank1"):
        assert "1 epochs of 6 images at batch 2 = 3 iterations" in (run / log).read_text()
    main([*command, "--eval-only", "--resume"])
    assert json.loads((run / "results_eval.json").read_text()) == trained


def workers(process: BaseProcess) -> list[int]:
    """The processes that torchrun has started, ordered by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(child) for child in children.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_torchrun_continues_after_a_worker_is_killed(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        *command,
        "--resume",
        "data.val_json=",
        "data.val_images=",
        "train.max_iter=40",
        "train.checkpointer.period=5",
    ]
    log = tmp_path / "output"
    call = ("torchrun", ["--max-restarts=1"], "train_net", "main", command)
    process = forked.start(Path(forked.__file__), *call, folders=[ROOT], output=log)
    deadline = time.monotonic() + 200
    while not (run / "last_checkpoint").exists():
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(workers(process)[1], signal.SIGKILL)
    process.join(300)
    output = log.read_text()
    assert process.exitcode == 0, output
    starts = re.findall(r"Starting training from iteration (\d+)", output)
    assert starts[0] == "0" and int(starts[-1]) >= 5, output
    assert load_checkpoint_file(run / "model_final.pth")["iteration"] == 39
    assert output.count("model_final.pth") == 1
    assert not list(run.glob("previous_run_*"))


def test_two_processes_train_a_frozen_vit_and_resume(command: list[str], tmp_path: Path) -> None:
    """No process waits for gradients of frozen parameters, and their values stay."""
    run = tmp_path / "run"
    common = [
        *command,
        "data.val_json=",
        "data.val_images=",
        "model.backbone.bottom_up.mode=frozen",
        "train.freeze=[roi_heads.box_head,bottom_up.spm]",
        "train.checkpointer.period=1",
    ]
    commands = [[*common, "train.max_iter=1"], [*common, "train.max_iter=2", "--resume"]]
    run_two_processes(commands)
    assert sorted(losses_by_iteration(run)) == [0, 1]
    checkpoints = [load_checkpoint_file(run / f"model_000000{n}.pth") for n in range(2)]
    first, second = (checkpoint["model"] for checkpoint in checkpoints)
    changed = {name for name, value in first.items() if not torch.equal(value, second[name])}
    frozen = ("backbone.bottom_up.vit.", "roi_heads.box_head.", "backbone.bottom_up.spm.")
    assert changed and not [name for name in changed if name.startswith(frozen)]
    assert {name.split(".")[1] for name in changed if name.startswith("roi_heads.")} == {
        "box_predictor",
        "mask_head",
    }
    parameters = [
        len(group["params"]) for group in checkpoints[1]["trainer"]["optimizer"]["param_groups"]
    ]
    assert 0 < sum(parameters) < len(first)
