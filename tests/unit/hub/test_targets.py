"""The config of a portable folder builds models and nothing else."""

import sys

import pytest

from vit_adapter import PlainViT
from vit_adapter.backbone.plain_vit import PlainViT as SameViT
from vit_adapter.detection import MaxIoUAssigner
from vit_adapter.hub import FolderError
from vit_adapter.hub.targets import with_targets

ATTACKS = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "torch.load",
    "torch.hub.load",
    "torch.nn.Module.load_state_dict",
    "torch.nn.Linear",
    "timm.create_model",
    "detectron2.config.LazyConfig.load",
    "detectron2.utils.registry.locate",
    "detectron2.checkpoint.DetectionCheckpointer",
    "detectron2.data.DatasetFromList",
    "detectron2.evaluation.DatasetEvaluators",
    "pydoc.locate",
    "hydra.utils.get_method",
    # by way of what a module has imported
    "vit_adapter.os.system",
    "vit_adapter.import_module",
    "vit_adapter.hub.folder.os.system",
    "vit_adapter.backbone.trunk.torch.load",
    "vit_adapter.backbone.lora.torch.hub.load",
    "vit_adapter.backbone.lora.nn.Linear",
    "vit_adapter.layers.cpu.os.system",
    "detectron2.modeling.backbone.fpn.nn.Sequential",
    "detectron2.modeling.backbone.fpn.fvcore.nn.weight_init.c2_xavier_fill",
    "detectron2.layers.wrappers.torch.load",
    # of the packages of models, but not a model
    "vit_adapter.LazyPredictor",
    "vit_adapter.backbone.lora.add_lora",
    "vit_adapter.layers.Callable",
    "vit_adapter.layers.norm.partial",
    "detectron2.modeling.build_model",
    "detectron2.modeling.meta_arch.build.build_model",
    "detectron2.modeling.GeneralizedRCNN.from_config",
    "detectron2.modeling.GeneralizedRCNN.__init__",
    "vit_adapter.ViTAdapter.__class__",
    # not names at all
    "",
    "ViTAdapter",
    "vit_adapter",
    ".vit_adapter.ViTAdapter",
    "vit_adapter..ViTAdapter",
    "vit_adapter.backbone.",
    "vit_adapter.backbone/../../x.Y",
    "vit_adapter.backbone.absent.Absent",
    "vit_adapter.backbones.ViTAdapter",
    "vit_adapter.backbone.ViTAdapter\n",
    None,
    3,
    ["vit_adapter.ViTAdapter"],
    {"_target_": "vit_adapter.ViTAdapter"},
]


@pytest.mark.parametrize("target", ATTACKS, ids=repr)
def test_everything_else_is_refused(target: object) -> None:
    nested = {"model": {"layers": [{"a": 1}, {"_target_": target, "command": "true"}]}}
    with pytest.raises(FolderError, match=r"model\.layers\.1\._target_ is .*portable folder"):
        with_targets(nested, "config")


def test_refused_names_are_not_imported(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FolderError):
        with_targets({"_target_": "evil_module.Model"})
    assert "evil_module" not in sys.modules
    before = set(sys.modules)
    with pytest.raises(FolderError):
        with_targets({"_target_": "antigravity.fly"})
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_adapter.PlainViT", PlainViT),
        ("vit_adapter.backbone.PlainViT", PlainViT),
        ("vit_adapter.backbone.plain_vit.PlainViT", SameViT),
        ("vit_adapter.detection.MaxIoUAssigner", MaxIoUAssigner),
    ],
)
def test_models_are_found_under_their_names(name: str, expected: type) -> None:
    assert with_targets([{"_target_": name, "depth": 2}]) == [{"_target_": expected, "depth": 2}]


@pytest.mark.parametrize(
    ("argument", "target", "reason"),
    [
        ("proposal_files", "detectron2.data.get_detection_dataset_dicts", "read pickles"),
        ("output_dir", "vit_adapter.evaluation.SemSegEvaluator", "where files are written"),
        ("cfg", "detectron2.modeling.GeneralizedRCNN", "yacs config"),
    ],
)
def test_arguments_that_could_do_harm_are_refused(argument: str, target: str, reason: str) -> None:
    with pytest.raises(FolderError, match=f"test.{argument} is not allowed.*{reason}"):
        with_targets({"_target_": target, argument: ["/tmp/x"]}, "test")


def test_plain_data_stay_as_they_are() -> None:
    plain = {"a": [1, 2.5, None, True, "$HOME {x}"], "b": {"cfg": 1}}
    assert with_targets(plain) == plain


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a ${model.x}", "\\${oc.env:HOME}", "${"])
def test_interpolations_are_refused(text: str) -> None:
    with pytest.raises(FolderError, match="config.a.1 is .*variable of the environment"):
        with_targets({"a": [1, text]})
