"""What comes between a backbone and the heads: attention, and the pyramids."""

import torch
from case_files import Arrays, Case, check
from detection_cases.maps import Maps
from detection_cases.reader import reads
from detectron2.config import instantiate
from omegaconf import DictConfig

from vit_adapter import model_zoo
from vit_adapter.checkpoint import load_strict
from vit_adapter.checkpoint.original import convert_state_dict
from vit_adapter.detection.htc import ExtraAttention

NUM_HEADS = 4


def convert_neck(parameters: Arrays, head: str) -> dict[str, torch.Tensor]:
    """Our names of a neck's parameters; the name of a parameter of the head shows which model."""
    converted = convert_state_dict({**parameters, head: torch.zeros(1)})
    start = "backbone."
    return {k.removeprefix(start): v for k, v in converted.items() if k.startswith(start)}


@reads("necks", "extra.*")
def test_extra_attention(case: Case) -> None:
    case = case.within("extra.")
    last = case["in"].requires_grad_()
    others = [torch.randn(len(last), 3, 2, 2) for _ in range(3)]
    parameters = case.within("param.")
    neck = ExtraAttention(
        bottom_up=Maps([*others, last]),
        num_heads=NUM_HEADS,
        mlp_ratio=len(parameters["ffn.fc1.bias"]) / last.shape[1],
        drop_path_rate=0.3,
    )
    theirs = {f"neck.0.{name}": value for name, value in parameters.items()}
    ours = convert_neck(theirs, "roi_head.semantic_head.conv_logits.bias")
    load_strict(neck, {k.removeprefix("bottom_up."): v for k, v in ours.items()})
    outputs = neck.eval()(torch.empty(0))
    check(outputs["res5"], case["out"])
    assert all(outputs[f"res{i + 2}"] is level for i, level in enumerate(others))
    (outputs["res5"] * case["cotangent"]).sum().backward()
    check(last.grad, case["grad_in"])
    check(neck.block.attn.qkv.bias.grad, case["grad.attn.qkv.bias"])


def check_pyramid(case: Case, config: DictConfig, head: str, *, first: int) -> None:
    """Compare all outputs of the pyramid of a config; the first is p``first``."""
    parameters = case.within("param.")
    config.bottom_up = Maps(case.numbered("in"))
    config.out_channels = len(parameters["fpn_convs.0.conv.bias"])
    pyramid = instantiate(config)
    theirs = {f"neck.{name}": value for name, value in parameters.items()}
    load_strict(pyramid, convert_neck(theirs, head))
    outputs, expected = pyramid(torch.empty(0)), case.numbered("out")
    assert list(outputs) == [f"p{first + i}" for i in range(len(expected))]
    for output, each in zip(outputs.values(), expected, strict=True):
        check(output, each)


@reads("necks", "fpn_p6pool.*")
def test_pyramid_from_stride_4(case: Case) -> None:
    config = model_zoo.get_config("common/models/mask_rcnn").model.backbone
    check_pyramid(case.within("fpn_p6pool."), config, "roi_head.bbox_head.fc_cls.bias", first=2)


@reads("necks", "fpn_retina.*")
def test_pyramid_from_stride_8(case: Case) -> None:
    """The map of stride 4 is not used."""
    config = model_zoo.get_config("common/models/dense_detector").atss.backbone
    check_pyramid(case.within("fpn_retina."), config, "bbox_head.atss_cls.bias", first=3)
