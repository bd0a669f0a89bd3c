"""Builds ATSS and GFL as their cases describe them."""

import torch
from case_files import Case
from detection_cases.maps import Maps
from detection_cases.reader import FILES, load_parameters, read_features
from detectron2.config import instantiate
from torch import Tensor

from vit_adapter import model_zoo
from vit_adapter.detection.dense.detector import AssigningDetector

FIRST_LEVEL = 3  # log2 of the first stride


def read_levels(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """The features of each level, as leaves of the graph."""
    features = read_features(case, first=FIRST_LEVEL)
    return {k: v.detach().to(dtype).requires_grad_() for k, v in features.items()}


def build(kind: str, features: dict[str, Tensor], **changes: object) -> AssigningDetector:
    """An "atss" or "gfl" with the stored parameters, in the type of the features.

    ``changes`` are those of its config.
    """
    parameters = FILES.read(f"{kind}_params")
    maps = list(features.values())
    config = model_zoo.get_config("common/models/dense_detector")[kind]
    config.backbone = Maps(maps, first=FIRST_LEVEL, prefix="p")
    config.num_classes = len(parameters[f"{kind}_cls.bias"])
    config.head.in_channels = maps[0].shape[1]
    towers = [name for name in parameters if name.startswith("cls_convs.") and "conv.w" in name]
    config.head.conv_dims = [len(parameters[name]) for name in sorted(towers)]
    if kind == "gfl":
        config.head.reg_max = len(parameters["gfl_reg.bias"]) // 4 - 1
    for name, value in changes.items():
        config[name] = value
    model = instantiate(config)
    load_parameters(model.head, parameters, theirs="bbox_head", ours="head")
    return model.to(maps[0].dtype)
