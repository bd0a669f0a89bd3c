"""Checks that data sets fit the model."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from vit_adapter.data import check_mask_format, check_num_classes, check_same_classes, class_names
from vit_adapter.data.checks import check_registered


@pytest.fixture
def catalog():
    """Return a function that registers a data set with the given metadata."""
    names = []

    def register(name, **metadata):
        DatasetCatalog.register(name, lambda: [])
        names.append(name)
        return MetadataCatalog.get(name).set(**metadata)

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_matching_numbers_pass(registered_shapes):
    check_num_classes("shapes_train", 3)
    check_num_classes("shapes_train_sem_seg", 5, kind="stuff")
    check_num_classes("coco_2017_val", 80)


def test_a_mismatch_names_both_numbers_and_the_override():
    with pytest.raises(ValueError) as error:
        check_num_classes("shapes_train", 80)
    message = str(error.value)
    assert "'shapes_train' has 3 thing classes (circle, square, triangle)" in message
    assert "model.roi_heads.num_classes=80" in message
    assert "Add the override model.roi_heads.num_classes=3" in message
    with pytest.raises(ValueError, match="model.head.num_classes=5"):
        check_num_classes(
            "shapes_train_sem_seg", 4, override_key="model.head.num_classes", kind="stuff"
        )


@pytest.mark.parametrize("kind", ["thing", "stuff"])
def test_classes_of_the_same_name_cause_a_warning(catalog, caplog, kind):
    catalog("pollen_test", **{f"{kind}_classes": ["grass", "birch", "grass"]})
    check_num_classes("pollen_test", 3, kind=kind)
    assert "'pollen_test' has more than one class with the name grass" in caplog.text
    caplog.clear()
    check_num_classes("coco_2017_val", 80)
    assert not caplog.text


def test_long_lists_of_classes_are_shortened():
    with pytest.raises(ValueError, match=r"80 thing classes \(person, .{10,90}, \.\.\.\)"):
        check_num_classes("coco_2017_train", 3)


def test_unknown_names_get_suggestions():
    with pytest.raises(ValueError, match="'shapes_trian'.*Did you mean shapes_train,.*train_json"):
        check_registered("shapes_trian")


def test_classes_set_by_the_loader_are_found(catalog):
    metadata = catalog("checks_lazy")
    DatasetCatalog.remove("checks_lazy")

    def load():
        metadata.thing_classes = ["a", "b"]
        return []

    DatasetCatalog.register("checks_lazy", load)
    assert class_names("checks_lazy") == ["a", "b"]


def test_data_without_classes_are_refused(catalog):
    catalog("checks_none")
    with pytest.raises(ValueError, match="'checks_none' has no thing classes"):
        class_names("checks_none")
    with pytest.raises(ValueError, match="kind must be one of"):
        class_names("checks_none", kind="things")


def test_training_and_test_classes_must_agree_in_order(catalog):
    catalog("checks_train", thing_classes=["a", "b"])
    catalog("checks_val", thing_classes=["b", "a"])
    check_same_classes("checks_train", "checks_train")
    with pytest.raises(ValueError, match=r"'checks_train' \(a, b\) differ from those of"):
        check_same_classes("checks_train", "checks_val")


def test_mask_formats(catalog):
    catalog("checks_polygon", mask_format="polygon")
    catalog("checks_boxes", mask_format=None)
    catalog("checks_silent")
    for name in ("checks_polygon", "checks_silent"):
        check_mask_format(name, "polygon")
        check_mask_format(name, "bitmask")
    check_mask_format("shapes_train", "bitmask")
    with pytest.raises(ValueError, match="mapper.instance_mask_format=bitmask"):
        check_mask_format("shapes_train", "polygon")
    with pytest.raises(ValueError, match="'checks_boxes' have no masks"):
        check_mask_format("checks_boxes", "bitmask")
