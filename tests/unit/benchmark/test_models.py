"""Models as configs describe them, and random inputs for all of them."""

import pytest
import torch

from vit_adapter.benchmark.models import build_subject, find_baselines, make_inputs
from vit_adapter.config.errors import UsageError

NAME = "quick_start/mask_rcnn_vit_adapter_shapes"
CPU = "train.device=cpu"


def test_random_weights_find_as_much_as_a_trained_model_may() -> None:
    # Of many classes, none would reach the score threshold.
    subject = build_subject(NAME, overrides=[CPU, "model.roi_heads.num_classes=80"])
    (inputs,) = make_inputs(1, (64, 96), num_channels=3, num_classes=3, training=False)
    with torch.no_grad():
        (output,) = subject.model.eval()([inputs])
    assert len(output["instances"]) >= 20
    assert output["instances"].pred_masks.shape[1:] == (64, 96)


def test_weights_are_those_of_the_checkpoint(tmp_path) -> None:
    subject = build_subject(NAME, overrides=[CPU])
    state = {name: torch.zeros_like(value) for name, value in subject.model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "zeros.pth")
    loaded = build_subject(NAME, weights=str(tmp_path / "zeros.pth"), overrides=[CPU])
    assert not any(parameter.any() for parameter in loaded.model.parameters())


def test_overrides_change_the_model() -> None:
    name = "quick_start/upernet_vit_adapter_tiny_scratch"
    overrides = [CPU, "model.sem_seg_head.main.num_classes=7"]
    with pytest.raises(UsageError, match="unknown_key"):
        build_subject(name, overrides=["model.unknown_key=1"])
    assert build_subject(name, overrides=overrides).num_classes == 7


def test_baselines_have_the_same_head_size_and_schedule() -> None:
    found = find_baselines("coco/mask_rcnn_vit_adapter_tiny_deit_3x")
    assert found == ["coco/mask_rcnn_vit_tiny_deit_3x", "coco/mask_rcnn_vitdet_tiny_deit_3x"]
    assert find_baselines("ade20k/upernet_vit_adapter_tiny_deit_512_160k") == [
        "ade20k/upernet_vit_tiny_deit_512_160k"
    ]
    assert find_baselines("coco/mask_rcnn_vit_tiny_deit_3x") == []
    assert find_baselines("configs/coco/mask_rcnn_vit_adapter_tiny_deit_3x.py") == []


def test_labels_fit_the_image() -> None:
    first, second = make_inputs(2, (64, 96), num_channels=3, num_classes=3, training=True)
    assert not torch.equal(first["image"], second["image"])
    again, _ = make_inputs(2, (64, 96), num_channels=3, num_classes=3, training=True)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["sem_seg"], again["sem_seg"])
    assert first["image"].shape == (3, 64, 96) and first["sem_seg"].shape == (64, 96)
    assert first["sem_seg"].unique().tolist() == [0, 1, 2]
    objects = first["instances"]
    assert objects.gt_masks.tensor.flatten(1).any(1).all()
    assert (objects.gt_boxes.area() > 0).all() and objects.gt_boxes.inside_box((64, 96)).all()
    (unlabelled,) = make_inputs(1, (64, 96), num_channels=5, num_classes=3, training=False)
    assert unlabelled["image"].shape == (5, 64, 96) and "instances" not in unlabelled
