"""DINOv2 and DINOv3 from Hugging Face's transformers, compared with its models."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from vit_adapter import TimmViT
from vit_adapter.backbone import PlainViT
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.pretrained import load_pretrained_vit

DIM, DEPTH, HEADS = 48, 2, 3
SIZES = {"hidden_size": DIM, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
DINOV2 = SIZES | {"image_size": 70, "patch_size": 14}


def dinov2(**options: object) -> nn.Module:
    return Dinov2Model(Dinov2Config(**DINOV2, **options))


def dinov2_with_registers(**options: object) -> nn.Module:
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**DINOV2, **options))


def dinov3(**options: object) -> nn.Module:
    options = {"num_register_tokens": 4, "intermediate_size": 4 * DIM} | options
    return DINOv3ViTModel(DINOv3ViTConfig(**SIZES, **options))


MODELS: dict[str, tuple[Callable[..., nn.Module], dict[str, object], str]] = {
    "DINOv2": (dinov2, {}, "vit_small_patch14_dinov2"),
    "DINOv2 with SwiGLU": (dinov2, {"use_swiglu_ffn": True}, "vit_giant_patch14_dinov2"),
    "DINOv2 with registers": (dinov2_with_registers, {}, "vit_small_patch14_reg4_dinov2"),
    "DINOv3": (dinov3, {}, "vit_small_patch16_dinov3_qkvb"),
    "DINOv3 without biases": (
        dinov3, {"query_bias": False, "value_bias": False}, "vit_small_patch16_dinov3",
    ),
    "DINOv3 with SwiGLU": (
        dinov3, {"use_gated_mlp": True, "hidden_act": "silu"}, "vit_small_plus_patch16_dinov3_qkvb",
    ),
}  # fmt: skip

_EARLIER = (
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.down_proj\.", ".mlp.weights_out."),
)


def earlier_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that transformers wrote before version 5."""
    result = {}
    for name, tensor in state_dict.items():
        if "position_embeddings" not in " ".join(state_dict):  # DINOv3
            result[name.removeprefix("model.")] = tensor
        elif ".gate_proj." in name:
            both = [tensor, state_dict[name.replace("gate_proj", "up_proj")]]
            result[name.replace("gate_proj", "weights_in")] = torch.cat(both)
        elif ".up_proj." not in name:
            for pattern, replacement in _EARLIER:
                name = re.sub(pattern, replacement, name)
            result[name] = tensor
    return result


def random_model(make: Callable[..., nn.Module], options: dict[str, object]) -> nn.Module:
    torch.manual_seed(0)
    model = make(**options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def timm_vit(name: str, model: nn.Module, **options: object) -> TimmViT:
    ratio = model.config.intermediate_size / DIM if "dinov3" in name else 4
    args = {"num_heads": HEADS, "mlp_ratio": ratio}
    if "giant" in name:
        args["mlp_ratio"] = 2 * 128 / DIM
    patch = model.config.patch_size
    side = None if "dinov3" in name else 70
    sizes = {"depth": DEPTH, "embed_dim": DIM, "patch_size": patch, "img_size": side}
    return TimmViT(name=name, model_args=args, **sizes, **options).eval()


@pytest.mark.parametrize("names", [dict, earlier_names], ids=["version 5", "earlier"])
@pytest.mark.parametrize(("make", "options", "name"), MODELS.values(), ids=MODELS)
def test_features_are_those_of_transformers(
    tmp_path: Path, make: Callable, options: dict, name: str, names: Callable
) -> None:
    model = random_model(make, options)
    torch.save(names(model.state_dict()), tmp_path / "model.pth")
    vit = timm_vit(name, model)
    report = load_pretrained_vit(vit, tmp_path / "model.pth")
    assert set(report.unused) <= {
        "mask_token", "norm.weight", "norm.bias",
        *(f"blocks.{index}.attn.qkv.bias" for index in range(DEPTH)),
    }  # fmt: skip
    assert report.resized == ()
    side = 64 if "dinov3" in name else 70
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = model(images, output_hidden_states=True).hidden_states[-1]
        tokens, _ = vit(images)
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [dinov2, dinov2_with_registers])
def test_positions_resized_without_antialiasing_are_those_of_transformers(
    tmp_path: Path, make: Callable
) -> None:
    registers = make is dinov2_with_registers
    model = random_model(make, {})
    torch.save(model.state_dict(), tmp_path / "model.pth")
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    images = torch.randn(1, 3, 42, 98)
    with torch.no_grad():
        expected = model(images, output_hidden_states=True).hidden_states[-1]
    # only the DINOv2 with registers is antialiased there
    for antialias in (False, True):
        vit = timm_vit(name, model, antialias_positions=antialias)
        load_pretrained_vit(vit, tmp_path / "model.pth")
        with torch.no_grad():
            error = (vit(images)[0] - expected).abs().max()
        assert (error < 1e-4) == (antialias == registers), error


def test_a_plain_vit_reads_them_too(tmp_path: Path) -> None:
    model = random_model(dinov2, {})
    torch.save(model.state_dict(), tmp_path / "model.pth")
    vit = PlainViT(img_size=70, patch_size=14, embed_dim=DIM, depth=DEPTH, num_heads=HEADS)
    report = load_pretrained_vit(vit, tmp_path / "model.pth")
    assert report.missing == () and "cls_token" in report.unused
    layer = model.encoder.layer[1]
    assert torch.equal(vit.blocks[1].gamma2, layer.layer_scale2.lambda1)
    query = layer.attention.q_proj.weight
    assert torch.equal(vit.blocks[1].attn.qkv.weight[:DIM], query)


def test_a_classifier_is_passed_over(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Dinov2ForImageClassification(Dinov2Config(**DINOV2, num_labels=3))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    vit = timm_vit("vit_small_patch14_dinov2", model)
    report = load_pretrained_vit(vit, tmp_path / "model.pth")
    assert {"head.weight", "head.bias"} <= set(report.unused)
    expected = model.dinov2.encoder.layer[0].mlp.fc1.weight
    assert torch.equal(vit.model.blocks[0].mlp.fc1.weight, expected)


def test_two_names_of_one_tensor_are_refused(tmp_path: Path) -> None:
    state_dict = random_model(dinov2, {}).state_dict()
    torch.save(state_dict | earlier_names(state_dict), tmp_path / "model.pth")
    with pytest.raises(CheckpointFileError, match="two spellings of 'blocks.0.attn.q.weight'"):
        load_pretrained_vit(timm_vit("vit_small_patch14_dinov2", dinov2()), tmp_path / "model.pth")


def test_an_incomplete_model_is_refused(tmp_path: Path) -> None:
    state_dict = random_model(dinov2, {}).state_dict()
    del state_dict["encoder.layer.1.attention.k_proj.weight"]
    torch.save(state_dict, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"(?s)1 only in the model \(missing\).*blocks.1.attn.qkv"):
        load_pretrained_vit(timm_vit("vit_small_patch14_dinov2", dinov2()), tmp_path / "model.pth")
