"""Any plain ViT of timm as a trunk, with timm's own forward pass as the oracle."""

import copy
import pickle

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from vit_adapter import TimmViT, ViTAdapter
from vit_adapter.backbone.timm_vit.relative import relative_positions

HEADS = {"num_heads": 3}
SMALL = {"embed_dim": 48} | HEADS
DEPTH = 3
MODELS = {
    "DeiT": "deit_small_patch16_224.fb_in1k",
    "DeiT, distilled": "deit_tiny_distilled_patch16_224",
    "DeiT-III": "deit3_small_patch16_224.fb_in22k_ft_in1k",
    "AugReg": "vit_small_patch16_384.augreg_in21k_ft_in1k",
    "MAE": "vit_base_patch16_224.mae",
    "BEiT": "beit_base_patch16_224.in22k_ft_in22k",
    "BEiTv2": "beitv2_base_patch16_224.in1k_ft_in22k",
    "BEiT-3": "beit3_base_patch16_224.pt",
    "BEiT-3, patch 14": "beit3_giant_patch14_224",
    "DINOv2": "vit_small_patch14_dinov2.lvd142m",
    "DINOv2 with registers": "vit_base_patch14_reg4_dinov2.lvd142m",
    "DINOv2, SwiGLU": "vit_giant_patch14_dinov2.lvd142m",
    "DINOv3": "vit_small_patch16_dinov3.lvd1689m",
    "DINOv3, SwiGLU": "vit_small_plus_patch16_dinov3_qkvb.lvd1689m",
    "EVA-02": "eva02_small_patch14_224.mim_in22k",
    "EVA-02, sub-LayerNorm": "eva02_base_patch14_448.mim_in22k_ft_in22k",
    "CLIP": "vit_base_patch16_clip_224.openai",
    "SigLIP": "vit_base_patch16_siglip_224.webli",
    "SAM": "samvit_base_patch16.sa1b",
    "RoPE with learned frequencies": "vit_small_patch16_rope_mixed_224",
    "norms after the branches": "vit_base_patch16_rpn_224",
    "parallel attention and MLP": "vit_base_patch16_xp_224",
}
SIZE = (64, 96)


@pytest.fixture(params=MODELS, ids=lambda key: key.replace(", ", "-").replace(" ", "-"))
def name(request: pytest.FixtureRequest) -> str:
    return MODELS[request.param]


def make_vit(name: str, **options: object) -> TimmViT:
    """A small ViT in which no weight is exactly zero or one."""
    torch.manual_seed(0)
    vit = TimmViT(name=name, **{"depth": DEPTH, "embed_dim": 48, "model_args": HEADS} | options)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return vit.eval()


def timm_tokens(vit: TimmViT, images: Tensor) -> Tensor:
    """All tokens after the last block, by timm's own module.

    The module is set to exactly this image size, unless it has rotary positions: timm computes
    those in float32 for a fixed size, so it must find the size itself.
    """
    rotary = hasattr(vit.model, "rope")
    oracle = timm.create_model(
        vit.name,
        patch_size=16,
        img_size=vit.model.patch_embed.img_size,
        depth=DEPTH,
        num_classes=0,
        **SMALL,
        **({"dynamic_img_size": True} if rotary else {}),
    )
    left_out = oracle.load_state_dict(vit.model.state_dict(), strict=False)
    assert set(left_out.unexpected_keys) <= {"rope.periods"}
    heads = ("norm.", "fc_norm.", "attn_pool.", "neck.")
    assert all(key.startswith(heads) for key in left_out.missing_keys)
    if hasattr(oracle, "set_input_size") and not rotary:
        oracle.set_input_size(img_size=tuple(images.shape[-2:]))
    oracle = oracle.double().eval()
    options = {"indices": 1, "norm": False, "intermediates_only": True}
    if not vit.num_prefix_tokens:
        maps = oracle.forward_intermediates(images, **options)[0]
        return maps.flatten(2).transpose(1, 2)
    options |= {"output_fmt": "NLC", "return_prefix_tokens": True}
    patches, prefix = oracle.forward_intermediates(images, **options)[0]
    return torch.cat([prefix, patches], dim=1)


@torch.no_grad()
def test_tokens_equal_timms(name: str) -> None:
    vit = make_vit(name).double()
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    tokens, grid = vit(images)
    assert grid == (4, 6)
    # In float64 our coordinates of DINOv3's rotary positions are exact, and timm's are not.
    tolerance = 1e-6 if "dinov3" in name else 1e-8
    torch.testing.assert_close(tokens, timm_tokens(vit, images), rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_idle_injectors_do_not_change_the_tokens(name: str) -> None:
    vit = make_vit(name)
    adapter = ViTAdapter(
        vit,
        interaction_indexes=[[0, 0], [1, 1], [2, 2]],
        conv_inplane=8,
        deform_num_heads=3,
        init_values=0.0,
        norm="BN",
    )
    adapter = adapter.double().eval()
    seen = []
    adapter.interactions[-1].register_forward_hook(lambda *call: seen.append(call[-1][0]))
    images = torch.randn(1, 3, *SIZE, dtype=torch.float64)
    outputs = adapter(images)
    tolerance = 1e-6 if "dinov3" in name else 1e-8  # as above
    torch.testing.assert_close(seen[0], timm_tokens(vit, images), rtol=tolerance, atol=tolerance)
    assert outputs["res4"].shape == (1, 48, 4, 6)


def test_every_parameter_gets_a_gradient(name: str) -> None:
    vit = make_vit(name, use_checkpoint=True).train()
    vit(torch.randn(2, 3, 32, 48))[0][:, vit.num_prefix_tokens :].square().sum().backward()
    idle = [key for key, parameter in vit.named_parameters() if parameter.grad is None]
    assert idle == []


@torch.no_grad()
def test_blocks_can_be_run_in_groups(name: str) -> None:
    vit = make_vit(name)
    tokens, grid = vit.embed(torch.randn(2, 3, 32, 48))
    assert tokens.shape == (2, vit.num_prefix_tokens + 6, vit.embed_dim)
    halfway = vit.forward_blocks(tokens, grid, 0, 2)
    assert torch.equal(
        vit.forward_blocks(halfway, grid, 2, DEPTH), vit.forward_blocks(tokens, grid, 0, DEPTH)
    )
    assert vit.forward_blocks(tokens, grid, 1, 1) is tokens


def test_only_the_trunk_remains(name: str) -> None:
    """Parameters that never get a gradient would stall distributed training."""
    left = {key.split(".")[1] for key, _ in make_vit(name).named_parameters()}
    assert left <= {
        "patch_embed", "pos_embed", "cls_token", "dist_token", "reg_token", "norm_pre", "rope",
        "blocks",
    }  # fmt: skip


@pytest.mark.parametrize("name", [MODELS["DINOv3"], MODELS["BEiT"], MODELS["SAM"]])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_activation_checkpointing_changes_no_gradient(name: str, rate: float) -> None:
    images = torch.randn(4, 3, 32, 48)
    gradients = []
    for use_checkpoint in (False, True):
        vit = make_vit(name, drop_path_rate=rate, use_checkpoint=use_checkpoint).train()
        torch.manual_seed(1)
        vit(images)[0].square().sum().backward()
        gradients.append([parameter.grad for parameter in vit.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("name", [MODELS["DINOv3"], MODELS["EVA-02"], MODELS["BEiT"]])
def test_positions_made_in_inference_mode_work_in_training(name: str) -> None:
    vit = make_vit(name)
    images = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        expected = vit(images)[0]
    tokens = vit.train()(images)[0]
    torch.testing.assert_close(tokens, expected)
    tokens.sum().backward()


@torch.no_grad()
@pytest.mark.parametrize("name", [MODELS["DINOv3"], MODELS["EVA-02"], MODELS["BEiT"]])
def test_a_dry_run_leaves_no_fake_positions_behind(name: str) -> None:
    vit = make_vit(name)
    size = (80, 112)  # used by no other test: models can share the positions of a grid
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = vit(torch.randn(1, 3, *size))[0]
    assert type(fake) is FakeTensor
    assert type(vit(torch.randn(1, 3, *size))[0]) is Tensor


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_position_biases_are_resized_in_single_precision(dtype: torch.dtype) -> None:
    table = torch.randn(27 * 27 + 3, 3)
    positions = relative_positions((14, 14), (5, 6), table)
    with torch.autocast("cpu", dtype=dtype):
        bias = positions.bias(table, torch.float32)
    assert torch.equal(bias, positions.bias(table, torch.float32))
    rounded = table.to(dtype)
    positions = relative_positions((14, 14), (5, 6), rounded)
    expected = positions.bias(rounded.float(), torch.float32).to(dtype)
    assert torch.equal(positions.bias(rounded, dtype), expected)


@torch.no_grad()
def test_position_biases_are_kept_until_the_weights_change() -> None:
    vit = make_vit(MODELS["BEiT"])
    images = torch.randn(1, 3, 32, 48)
    before = vit(images)[0]
    biases = [block.attn.biases.derived for block in vit.model.blocks]
    kept = [list(cache._entries.values()) for cache in biases]
    assert torch.equal(vit(images)[0], before)
    assert [list(cache._entries.values()) for cache in biases] == kept and all(kept)
    for block in vit.model.blocks:
        block.attn.relative_position_bias_table.mul_(2)
    changed = vit(images)[0]
    assert not torch.equal(changed, before)
    torch.testing.assert_close(changed, copy.deepcopy(vit)(images)[0], rtol=0, atol=0)
    vit.train()
    assert not any(cache._entries for cache in biases)


@torch.no_grad()
def test_rotary_positions_follow_dtype_and_copies(name: str) -> None:
    vit = make_vit(name)
    images = torch.randn(1, 3, 32, 48)
    before = vit(images)[0]
    for twin in (copy.deepcopy(vit), pickle.loads(pickle.dumps(vit))):
        torch.testing.assert_close(twin(images)[0], before)
    double = vit.double()(images.double())[0]
    torch.testing.assert_close(double.float(), before, rtol=1e-4, atol=1e-4)


def test_rotary_positions_are_not_jittered() -> None:
    vit = make_vit(MODELS["DINOv3"], model_args=HEADS | {"rope_rescale_coords": 2.0}).train()
    images = torch.randn(1, 3, 32, 48)
    torch.testing.assert_close(vit(images)[0], vit.eval()(images)[0])


def test_drop_path_rises_linearly() -> None:
    vit = TimmViT(
        name=MODELS["DINOv3"], depth=5, drop_path_rate=0.4, embed_dim=48, model_args=HEADS
    )
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("name", "eps"),
    [(MODELS["DINOv3"], 1e-5), (MODELS["DINOv2"], 1e-6), (MODELS["BEiT-3"], 1e-5)],
)
def test_norms_have_the_epsilon_of_the_model(name: str, eps: float) -> None:
    norm = make_vit(name).norm_layer(8)
    assert isinstance(norm, nn.LayerNorm) and norm.eps == eps


@pytest.mark.parametrize(
    ("name", "prefix", "grid"),
    [
        ("vit_base_patch14_reg4_dinov2.lvd142m", 5, 37),
        ("vit_base_patch16_224.mae", 1, 14),
        ("vit_small_patch16_384.augreg_in21k_ft_in1k", 1, 24),
        ("eva02_base_patch14_448", 1, 32),
        ("vit_base_patch16_siglip_224", 0, 14),
    ],
)
def test_the_grid_of_the_pre_training_is_kept(name: str, prefix: int, grid: int) -> None:
    vit = TimmViT(name=name, depth=1, embed_dim=48, model_args=HEADS)
    assert (vit.patch_size, vit.num_prefix_tokens, vit.depth, vit.embed_dim) == (16, prefix, 1, 48)
    assert vit.model.patch_embed.grid_size == (grid, grid)
    assert vit.model.patch_embed.proj.weight.shape == (48, 3, 16, 16)
    smaller = TimmViT(name=name, depth=1, embed_dim=48, model_args=HEADS, img_size=160)
    assert smaller.model.patch_embed.grid_size == (10, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vit_base_patch16_dinov4"}, "no model .*Did you mean vit_base_patch16_dinov3"),
        ({"name": "zzz"}, "no model 'zzz'. No plain ViT has a similar name"),
        ({"name": "vit_base_patch16_224.maee"}, r"no weights .*vit_base_patch16_224\.mae"),
        ({"name": "swin_tiny_patch4_window7_224"}, "'swin_tiny_.*' is not a plain ViT"),
        ({"name": "resnet50.a1_in1k"}, "'resnet50' is not a plain ViT"),
        ({"name": "convnext_tiny"}, "is not a plain ViT"),
        ({"name": "hiera_tiny_224"}, "is not a plain ViT"),
        ({"name": "naflexvit_base_patch16_gap"}, "is not a plain ViT"),
        ({"name": "vit_tiny_r_s16_p8_224"}, "is not a plain ViT"),
        ({"img_size": 230}, "img_size must be a multiple of patch_size 16, got 230"),
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"model_args": {"in_chans": 4}}, r"model_args must not contain \['in_chans'\]"),
        ({"model_args": {"pretrained": True}}, r"\['pretrained'\]: weights .*vit_checkpoint"),
        ({"model_args": {"checkpoint_path": "a.pth"}}, r"\['checkpoint_path'\]: weights"),
        ({"model_args": {"pretrained_cfg": {"file": "a.pth"}}}, r"\['pretrained_cfg'\]: weights"),
        ({"name": "local-dir:model"}, "no model"),
        ({"name": "hf-hub:owner/model"}, "no model"),
        ({"model_args": {"embed_dims": 4}}, "does not accept the arguments.*embed_dims"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmViT(**{"name": "deit_tiny_patch16_224", "depth": 1} | arguments)


def test_naflex_in_place_of_a_plain_vit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models.vision_transformer._USE_NAFLEX_DEFAULT", True)
    with pytest.raises(ValueError, match="builds a NaFlexVit for 'vit_tiny_patch16_224'"):
        TimmViT(name="vit_tiny_patch16_224", depth=1)


def test_sides_must_be_multiples_of_the_patch_size() -> None:
    with pytest.raises(ValueError, match="multiples of the patch size 16, got 32 x 40"):
        make_vit(MODELS["DeiT"]).embed(torch.zeros(1, 3, 32, 40))
