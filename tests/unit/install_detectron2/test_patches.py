"""The patches: what the patches are for, in the Detectron2 that is installed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import detectron2
import numpy as np
import pytest
import torch

from vit_adapter.install_detectron2 import installer as tool
from vit_adapter.install_detectron2.patches import ADDED_FILES, PATCHES

INSTALLED = Path(detectron2.__file__).parent
IS_PATCHED = importlib.metadata.version("detectron2").startswith(tool.VERSION_PREFIXES)


def test_every_patch_holds_in_the_installed_version() -> None:
    for patch in PATCHES if IS_PATCHED else ():
        text = (INSTALLED / patch.file).read_text(encoding="utf-8")
        assert text.count(patch.new) >= patch.count, patch
        assert text.count(patch.old) == patch.new.count(patch.old) * patch.count, patch
    for name, content in (ADDED_FILES if IS_PATCHED else {}).items():
        assert (INSTALLED / name).read_text(encoding="utf-8") == content


@pytest.mark.skipif(not IS_PATCHED, reason="this Detectron2 is not the patched v0.6")
def test_numpy_aliases_are_gone() -> None:
    tool.check_numpy_names(INSTALLED, {})


def test_instances_are_counted_by_class(caplog: pytest.LogCaptureFixture) -> None:
    """Detectron2 catches AttributeErrors of this table, so a missing patch would go unnoticed."""
    from detectron2.data.build import print_instances_class_histogram

    record = {"annotations": [{"category_id": 1}, {"category_id": 1}, {"category_id": 0}]}
    with caplog.at_level("INFO"):
        print_instances_class_histogram([record], ["nucleus", "cell"])
    assert "nucleus" in caplog.text and "cell" in caplog.text


def test_masks_and_resizing_work() -> None:
    from detectron2.data import transforms as T
    from detectron2.structures.masks import polygons_to_bitmask

    square = np.array([1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0])
    assert polygons_to_bitmask([square], 8, 8).sum() == 16
    assert not polygons_to_bitmask([], 8, 8).any()
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    assert T.ResizeTransform(4, 4, 2, 2).apply_image(grey).shape == (2, 2, 1)
    assert T.ExtentTransform((0, 0, 2, 2), (2, 2)).apply_image(grey).tolist()[0] == [[0], [1]]


def test_pasting_a_mask_works() -> None:
    from detectron2.layers.mask_ops import paste_mask_in_image_old

    pasted = paste_mask_in_image_old(torch.ones(4, 4), torch.tensor([1, 1, 3, 3]), 6, 6, 0.5)
    assert pasted.sum() == 9


def test_semantic_evaluation_works(tmp_path: Path) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import SemSegEvaluator
    from PIL import Image

    label = np.zeros((4, 4), dtype=np.uint8)
    label[:2] = 1
    Image.fromarray(label).save(tmp_path / "label.png")
    item = {"file_name": "image.png", "sem_seg_file_name": str(tmp_path / "label.png")}
    DatasetCatalog.register("test_install_sem_seg", lambda: [item])
    MetadataCatalog.get("test_install_sem_seg").set(stuff_classes=["a", "b"], ignore_label=255)
    try:
        evaluator = SemSegEvaluator("test_install_sem_seg", distributed=False)
        evaluator.reset()
        scores = torch.nn.functional.one_hot(torch.from_numpy(label).long()).permute(2, 0, 1)
        evaluator.process([item], [{"sem_seg": scores}])
        assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100.0
    finally:
        DatasetCatalog.remove("test_install_sem_seg")
        MetadataCatalog.remove("test_install_sem_seg")


def test_model_zoo_finds_its_configs() -> None:
    from detectron2 import model_zoo

    with pytest.raises(RuntimeError, match="not available in Model Zoo"):
        model_zoo.get_config_file("no/such/config.yaml")


def test_coco_evaluation_runs_without_the_compiled_part() -> None:
    from detectron2.evaluation import coco_evaluation

    assert issubclass(coco_evaluation.COCOeval_opt, coco_evaluation.COCOeval)


def test_compiled_operators_say_what_is_missing() -> None:
    from detectron2.layers.rotated_boxes import pairwise_iou_rotated

    box = torch.tensor([[2.0, 2.0, 2.0, 2.0, 0.0]])
    if IS_PATCHED:
        with pytest.raises(RuntimeError, match="Python-only installation of Detectron2"):
            pairwise_iou_rotated(box, box)
    else:
        assert torch.allclose(pairwise_iou_rotated(box, box), torch.ones(1, 1))


def test_drawing_works() -> None:
    from detectron2.data import Metadata
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.visualizer import Visualizer

    image = np.full((32, 48, 3), 80, dtype=np.uint8)
    instances = Instances((32, 48), pred_boxes=Boxes(torch.tensor([[4.0, 4.0, 20.0, 20.0]])))
    instances.pred_classes = torch.tensor([0])
    instances.scores = torch.tensor([0.9])
    instances.pred_masks = torch.zeros(1, 32, 48, dtype=torch.bool)
    instances.pred_masks[:, 6:18, 6:18] = True
    drawn = Visualizer(image, Metadata(thing_classes=["a"])).draw_instance_predictions(instances)
    panoptic = torch.zeros(32, 48, dtype=torch.int32)
    panoptic[:16] = 1
    segment = {"id": 1, "isthing": True, "category_id": 0, "score": 0.9}
    metadata = Metadata(thing_classes=["a"], stuff_classes=["b"], stuff_colors=[[0, 0, 255]])
    merged = Visualizer(image, metadata).draw_panoptic_seg_predictions(panoptic, [segment])
    for picture in (drawn.get_image(), merged.get_image()):
        assert picture.shape == image.shape and (picture != image).any()
