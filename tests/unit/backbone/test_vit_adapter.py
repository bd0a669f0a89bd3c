"""ViT-Adapter as a Detectron2 backbone."""

import copy

import pytest
import torch
from detectron2.modeling.backbone import FPN
from timm.layers import DropPath
from torch import Tensor, nn

from vit_adapter import PlainViT, ViTAdapter
from vit_adapter.layers import MSDeformAttn

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
DIM = 12


def make_vit(**changes: object) -> PlainViT:
    sizes = {"img_size": 64, "embed_dim": DIM, "depth": 4, "num_heads": 2}
    return PlainViT(**{**sizes, **changes})


def make_adapter(vit: PlainViT | None = None, **changes: object) -> ViTAdapter:
    arguments = {
        "interaction_indexes": [(0, 0), (1, 1), (2, 2), (3, 3)],
        "conv_inplane": 4,
        "deform_num_heads": 2,
        **changes,
    }
    return ViTAdapter(vit or make_vit(), **arguments)


def randomise(model: nn.Module) -> nn.Module:
    """Random weights, so that all branches count and no sampling point lies on a cell border."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def total(outputs: dict[str, Tensor]) -> Tensor:
    """A scalar in which every element has its own weight."""
    weights = {k: torch.arange(v.numel(), dtype=v.dtype).view(v.shape) for k, v in outputs.items()}
    return sum((v * weights[k].sin()).sum() for k, v in outputs.items())


@pytest.mark.parametrize(
    "size", [(64, 96), (32, 32), (33, 65), (70, 90), (31, 100), (1, 1), (127, 3)]
)
def test_any_image_size(size: tuple[int, int]) -> None:
    adapter = make_adapter().eval()
    with torch.no_grad():
        outputs = adapter(torch.randn(2, 3, *size))
    for name, stride in STRIDES.items():
        expected = (2, DIM, -(-size[0] // stride), -(-size[1] // stride))
        assert tuple(outputs[name].shape) == expected


def test_output_shape_matches_the_outputs() -> None:
    adapter = make_adapter()
    outputs = adapter(torch.randn(2, 3, 64, 96))
    shapes = adapter.output_shape()
    assert list(outputs) == list(shapes) == list(STRIDES)
    for name, shape in shapes.items():
        assert shape.channels == outputs[name].shape[1]
        assert shape.stride == 64 // outputs[name].shape[2] == STRIDES[name]


def test_padding_inside_equals_padding_outside() -> None:
    torch.manual_seed(0)
    adapter = randomise(make_adapter()).eval()
    images = torch.randn(1, 3, 70, 90)
    padded = torch.zeros(1, 3, 96, 96)
    padded[..., :70, :90] = images
    with torch.no_grad():
        inside, outside = adapter(images), adapter(padded)
    for name, features in inside.items():
        height, width = features.shape[-2:]
        assert torch.equal(features, outside[name][..., :height, :width])


def test_works_with_detectron2s_fpn() -> None:
    adapter = make_adapter()
    assert adapter.size_divisibility == adapter.padding_constraints["size_divisibility"] == 32
    fpn = FPN(adapter, in_features=list(STRIDES), out_channels=8)
    outputs = fpn(torch.randn(2, 3, 64, 96))
    assert {name: tuple(f.shape[-2:]) for name, f in outputs.items()} == {
        "p2": (16, 24),
        "p3": (8, 12),
        "p4": (4, 6),
        "p5": (2, 3),
    }


@pytest.mark.parametrize("window_sizes", [(), (2, 0, 3, 0)])
def test_zero_gamma_leaves_the_vit_bit_for_bit(window_sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    vit = make_vit(window_sizes=window_sizes)
    adapter = randomise(make_adapter(vit)).eval()
    for interaction in adapter.interactions:
        nn.init.zeros_(interaction.injector.gamma)
    streams = []
    for interaction in adapter.interactions:
        interaction.register_forward_hook(lambda _m, _i, output: streams.append(output[0]))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        adapter(images)
        tokens, grid = vit.embed(images)
        for index, stream in enumerate(streams):
            tokens = vit.forward_blocks(tokens, grid, index, index + 1)
            assert torch.equal(stream, tokens)


def test_fusion_adds_the_tokens_it_names() -> None:
    torch.manual_seed(0)
    adapter = randomise(make_adapter(norm="")).double().eval()
    taps = []
    for interaction in adapter.interactions:
        interaction.register_forward_hook(lambda _m, _i, output: taps.append(output[0]))
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        outputs = {}
        for fusion in ("none", "last", "per_interaction"):
            taps.clear()
            adapter.vit_feature_fusion = fusion
            outputs[fusion] = adapter(images)
    maps = [tap.transpose(1, 2).reshape(2, DIM, 4, 6) for tap in taps]
    for fusion, chosen in (("last", [maps[3]] * 4), ("per_interaction", maps)):
        for (name, stride), vit_map in zip(STRIDES.items(), chosen, strict=True):
            added = outputs[fusion][name] - outputs["none"][name]
            resized = nn.functional.interpolate(vit_map, scale_factor=16 / stride, mode="bilinear")
            torch.testing.assert_close(added, resized)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"with_cffn": False, "use_extra_extractor": False},
        {"interaction_indexes": [(0, 3)], "vit_feature_fusion": "none"},
        {"out_features": ("res3", "res4", "res5")},
        {"out_features": ("res5",)},
    ],
)
def test_every_trainable_parameter_gets_a_gradient(changes: dict[str, object]) -> None:
    adapter = randomise(make_adapter(**changes)).train()
    total(adapter(torch.randn(2, 3, 64, 96))).backward()
    without = [n for n, p in adapter.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_fewer_outputs_are_the_same_numbers_with_the_same_keys() -> None:
    torch.manual_seed(0)
    complete = randomise(make_adapter()).eval()
    fewer = make_adapter(out_features=("res5", "res3")).eval()
    fewer.load_state_dict(complete.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, actual = complete(images), fewer(images)
    assert list(actual) == ["res5", "res3"] == list(fewer.output_shape())
    for name, features in actual.items():
        assert torch.equal(features, expected[name])
    frozen = {name.split(".")[0] for name, p in fewer.named_parameters() if not p.requires_grad}
    assert frozen == {"up", "spm", "norm1", "norm3"}


def test_drop_path_is_the_same_in_all_extractors() -> None:
    adapter = make_adapter(drop_path_rate=0.3)
    rates = [m.drop_prob for m in adapter.interactions.modules() if isinstance(m, DropPath)]
    assert rates == [0.3] * 6


def test_starts_as_the_original_does() -> None:
    torch.manual_seed(0)
    vit = make_vit(embed_dim=48, layer_scale=False)
    before = copy.deepcopy(vit.state_dict())
    adapter = make_adapter(vit, conv_inplane=32)
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())
    assert adapter.spm.stem[3].weight.std().item() == pytest.approx((2 / 288) ** 0.5, rel=0.05)
    assert adapter.up.weight.std().item() == pytest.approx((2 / (4 * 48)) ** 0.5, rel=0.05)
    dwconv = [m for m in adapter.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    weights = torch.cat([m.weight.flatten() for m in dwconv])
    assert weights.std().item() == pytest.approx(0.471, rel=0.1)
    ffn = adapter.interactions[0].extractor.ffn
    assert ffn.fc1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert adapter.level_embed.std().item() == pytest.approx(1, rel=0.2)
    for attention in (m for m in adapter.modules() if isinstance(m, MSDeformAttn)):
        assert attention.sampling_offsets.weight.abs().sum() == 0
        assert attention.sampling_offsets.bias.abs().max() == 4
    assert adapter.interactions[0].injector.gamma.abs().sum() == 0


@pytest.mark.parametrize("batch", [1, 2])
def test_gradient_in_training_mode_is_correct(batch: int) -> None:
    """Against finite differences: PyTorch's batch norm can have wrong gradients for one image."""
    torch.manual_seed(0)
    adapter = randomise(make_adapter(norm="BN")).double().train()
    images = torch.randn(batch, 3, 32, 64, dtype=torch.float64, requires_grad=True)
    direction, step = torch.randn_like(images), 1e-6
    total(adapter(images)).backward()
    with torch.no_grad():
        higher, lower = (total(adapter(images + s * direction)) for s in (step, -step))
    slope = (images.grad * direction).sum()
    torch.testing.assert_close((higher - lower) / (2 * step), slope, rtol=1e-5, atol=1e-6)


def test_activation_checkpointing_changes_no_gradient() -> None:
    images = torch.randn(2, 3, 32, 64)
    adapters = [
        make_adapter(make_vit(use_checkpoint=on, drop_path_rate=0.3), use_checkpoint=on).train()
        for on in (False, True)
    ]
    adapters[1].load_state_dict(randomise(adapters[0]).state_dict())
    for adapter in adapters:
        torch.manual_seed(1)
        total(adapter(images)).backward()
    gradients = [{n: p.grad for n, p in a.named_parameters()} for a in adapters]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_bfloat16_autocast_trains_and_is_close() -> None:
    torch.manual_seed(0)
    adapter = randomise(make_adapter()).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = adapter(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = adapter(images)
    for name, features in outputs.items():
        difference = (features.float() - expected[name]).norm()
        assert difference < 0.1 * expected[name].norm(), name
    total({k: v.float() for k, v in outputs.items()}).backward()
    assert all(p.grad.isfinite().all() for p in adapter.parameters())


def test_can_be_copied() -> None:
    adapter = make_adapter().eval()
    images = torch.randn(1, 3, 32, 32)
    twin = copy.deepcopy(adapter)
    assert torch.equal(twin(images)["res5"], adapter(images)["res5"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interaction_indexes": [(0, 1), (2, 2)]}, "blocks 0 to 3 in order without gaps"),
        ({"interaction_indexes": [(0, 1), (2, 4)]}, r"got \[\(0, 1\), \(2, 4\)\]"),
        ({"interaction_indexes": [(0, 1), (1, 3)]}, "without gaps"),
        ({"interaction_indexes": [(1, 0), (1, 3)]}, "without gaps"),
        ({"interaction_indexes": [(0, 1, 2), (3, 3)]}, "pairs"),
        ({"interaction_indexes": []}, r"got \[\]"),
        ({"vit_feature_fusion": "first"}, "'last', 'per_interaction' or 'none', got 'first'"),
        (
            {"interaction_indexes": [(0, 3)], "vit_feature_fusion": "per_interaction"},
            "needs exactly 4 interactions, one for each output, got 1",
        ),
        ({"deform_num_heads": 5}, "multiple of the 5 deformable heads, got 12"),
        ({"drop_path_rate": -0.1}, r"in \[0, 1\), got -0.1"),
        ({"norm": "batch"}, "unknown norm 'batch'"),
        ({"out_features": ["res2", "res6"]}, r"got \['res2', 'res6'\]"),
        ({"out_features": []}, r"got \[\]"),
        (
            {"vit": make_vit(patch_size=64)},
            "must not be larger than .* 32 pixels, got patch_size 64",
        ),
        (
            {"frozen_dtype": "float16"},
            "frozen_dtype must be 'float32' or 'bfloat16', got 'float16'",
        ),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_adapter(**changes)


@pytest.mark.parametrize("shape", [(1, 4, 32, 32), (1, 1, 32, 32), (3, 32, 32), (1, 3, 0, 32)])
def test_images_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected .*images?.*got"):
        make_adapter()(torch.zeros(shape))
