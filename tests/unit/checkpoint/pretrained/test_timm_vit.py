"""Published layouts for timm's ViTs: each is made from known weights, which must be read back."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

from vit_adapter import TimmViT
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.loading import CheckpointMismatchError
from vit_adapter.checkpoint.pretrained import load_pretrained_vit

DIM, DEPTH = 48, 2
HEADS = {"num_heads": 3}
SMALL = {"embed_dim": DIM} | HEADS
StateDict = dict[str, Tensor]


def make_vit(name: str, **options: object) -> TimmViT:
    torch.manual_seed(1)
    return TimmViT(name=name, depth=DEPTH, embed_dim=DIM, model_args=HEADS, **options)


def timm_weights(name: str, **options: object) -> StateDict:
    """A pre-trained model of timm, with its head and its own patch size."""
    torch.manual_seed(0)
    model = timm.create_model(name, depth=DEPTH, **SMALL, **options)
    return {key: torch.randn_like(value) for key, value in model.state_dict().items()}


def save(state_dict: StateDict, folder: Path) -> Path:
    torch.save({"model": state_dict}, folder / "vit.pth")
    return folder / "vit.pth"


def rename(state_dict: StateDict, *pairs: tuple[str, str]) -> StateDict:
    renamed = {}
    for key, value in state_dict.items():
        for pattern, replacement in pairs:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def as_dinov2(weights: StateDict) -> tuple[StateDict, set[str]]:
    """With registers; the class token has its own position."""
    published = rename(weights, ("^reg_token$", "register_tokens"))
    row = torch.randn(1, 1, DIM)
    published["cls_token"] = weights["cls_token"] - row
    published["pos_embed"] = torch.cat([row, weights["pos_embed"]], dim=1)
    published["mask_token"] = torch.randn(1, DIM)
    return published, {"mask_token", "norm.weight", "norm.bias"}


def as_dinov3(weights: StateDict) -> tuple[StateDict, set[str]]:
    published = rename(
        weights, ("^reg_token$", "storage_tokens"), (r"\.gamma_([12])$", r".ls\1.gamma")
    )
    published["rope_embed.periods"] = torch.rand(DIM // HEADS["num_heads"] // 4)
    unused = {"mask_token", "local_cls_norm.weight", "local_cls_norm.bias"}
    for index in range(DEPTH):
        prefix = f"blocks.{index}.attn."
        query = published.pop(f"{prefix}q_bias", torch.zeros(DIM))
        value = published.pop(f"{prefix}v_bias", torch.zeros(DIM))
        published[f"{prefix}qkv.bias"] = torch.cat([query, torch.randn(DIM), value])
        unused |= {f"{prefix}qkv.bias_mask"}
        if f"{prefix}q_bias" not in weights:
            unused |= {f"{prefix}qkv.bias"}
    return published | {key: torch.randn(3) for key in unused - set(published)}, unused | {
        "norm.weight",
        "norm.bias",
    }


def as_mae(weights: StateDict) -> tuple[StateDict, set[str]]:
    unused = {"mask_token", "decoder_embed.weight", "decoder_blocks.0.norm1.weight"}
    published = {key: value for key, value in weights.items() if not key.startswith("head.")}
    return published | {key: torch.randn(3) for key in unused}, unused | {
        "norm.weight",
        "norm.bias",
    }


def as_deit3(weights: StateDict) -> tuple[StateDict, set[str]]:
    published = rename(weights, (r"\.ls([12])\.gamma$", r".gamma_\1"))
    return published, {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def as_beit(weights: StateDict) -> tuple[StateDict, set[str]]:
    """Only pre-trained: one table for all blocks."""
    table = "relative_position_bias_table"
    for index in range(1, DEPTH):
        weights[f"blocks.{index}.attn.{table}"] = weights[f"blocks.0.attn.{table}"]
    published = {key: value for key, value in weights.items() if table not in key}
    published = rename(published, (r"^fc_norm\.", "norm."), (r"^head\.", "lm_head."))
    published[f"rel_pos_bias.{table}"] = weights[f"blocks.0.attn.{table}"]
    unused = {"mask_token", "rel_pos_bias.relative_position_index"}
    return published | {key: torch.zeros(2) for key in unused}, unused | {
        "norm.weight",
        "norm.bias",
        "lm_head.weight",
        "lm_head.bias",
    }


def as_beit3(weights: StateDict) -> tuple[StateDict, set[str]]:
    """The vision expert is A, the language expert B; position 0 and 1 are not used."""
    published: StateDict = {}
    for key, value in weights.items():
        if key.startswith(("head.", "fc_norm.")):
            continue
        qkv = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", key)
        if qkv:
            layer = f"beit3.encoder.layers.{qkv[1]}.self_attn"
            for part, tensor in zip("qkv", value.chunk(3), strict=True):
                published[f"{layer}.{part}_proj.A.{qkv[2]}"] = tensor
        elif key == "pos_embed":
            rows = torch.cat([torch.randn(2, DIM), value[0]])
            published["beit3.encoder.embed_positions.A.weight"] = rows
        else:
            published[rename_to_beit3(key)] = value
    experts = [key for key in published if ".A." in key]
    unused = {key.replace(".A.", ".B.") for key in experts} | {
        "beit3.text_embed.weight",
        "beit3.vision_embed.mask_token",
        "mlm_head.weight",
        "beit3.encoder.layer_norm.A.weight",
        "beit3.encoder.layer_norm.B.weight",
    }
    return published | {key: torch.randn(3) for key in unused}, unused


def rename_to_beit3(key: str) -> str:
    pairs = (
        (r"^patch_embed\.", "beit3.vision_embed."),
        ("^cls_token$", "beit3.vision_embed.cls_token"),
        (r"^blocks\.(\d+)\.", r"beit3.encoder.layers.\1."),
        (r"\.norm1\.", ".self_attn_layer_norm.A."),
        (r"\.norm2\.", ".final_layer_norm.A."),
        (r"\.attn\.norm\.", ".self_attn.inner_attn_ln.A."),
        (r"\.attn\.proj\.", ".self_attn.out_proj.A."),
        (r"\.mlp\.norm\.", ".ffn.A.ffn_layernorm."),
        (r"\.mlp\.", ".ffn.A."),
    )
    for pattern, replacement in pairs:
        key = re.sub(pattern, replacement, key)
    return key


def as_eva02(weights: StateDict) -> tuple[StateDict, set[str]]:
    published = rename(
        weights,
        (r"\.mlp\.norm\.", ".mlp.ffn_ln."), (r"\.mlp\.fc1_g\.", ".mlp.w1."),
        (r"\.mlp\.fc1_x\.", ".mlp.w2."), (r"\.mlp\.fc2\.", ".mlp.w3."),
        (r"\.q_proj\.bias$", ".q_bias"), (r"\.v_proj\.bias$", ".v_bias"),
        (r"^fc_norm\.", "norm."),
    )  # fmt: skip
    unused = {"mask_token", "lm_head.weight", "lm_head.bias", "rope.freqs_cos", "rope.freqs_sin"}
    published |= {key: torch.randn(3) for key in unused}
    return published, unused | {"norm.weight", "norm.bias"}


def as_clip(weights: StateDict) -> tuple[StateDict, set[str]]:
    published = rename(
        weights,
        (r"^patch_embed\.proj", "conv1"), ("^pos_embed$", "positional_embedding"),
        ("^cls_token$", "class_embedding"), (r"^blocks\.", "transformer.resblocks."),
        (r"^norm_pre\.", "ln_pre."), (r"^norm\.", "ln_post."), (r"\.norm([12])\.", r".ln_\1."),
        (r"\.qkv\.", ".in_proj_"), (r"\.attn\.proj\.", ".attn.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."), (r"\.mlp\.fc2\.", ".mlp.c_proj."),
        (r"^head\.weight$", "proj"), ("^", "visual."),
    )  # fmt: skip
    published.pop("visual.head.bias", None)
    published["visual.class_embedding"] = published["visual.class_embedding"][0, 0]
    published["visual.positional_embedding"] = published["visual.positional_embedding"][0]
    unused = {
        "transformer.resblocks.0.attn.in_proj_weight", "token_embedding.weight", "logit_scale",
        "positional_embedding", "ln_final.weight", "text_projection",
    }  # fmt: skip
    published |= {key: torch.randn(3) for key in unused}
    return published, unused | {
        "visual.ln_post.weight",
        "visual.ln_post.bias",
        *({"visual.proj"} & published.keys()),
    }


def as_sam(weights: StateDict) -> tuple[StateDict, set[str]]:
    encoder = rename(weights, (r"\.mlp\.fc", ".mlp.lin"), ("^", "image_encoder."))
    unused = {key for key in encoder if ".neck." in key} | {
        "prompt_encoder.no_mask_embed.weight",
        "mask_decoder.iou_token.weight",
        "pixel_mean",
    }
    return encoder | {key: torch.randn(3) for key in unused - set(encoder)}, unused


def as_open_clip(weights: StateDict) -> tuple[StateDict, set[str]]:
    """SigLIP in open_clip: timm's names inside a larger model."""
    published = rename(weights, ("^", "visual.trunk."))
    text = {"text.token_embedding.weight", "logit_scale", "logit_bias"}
    unused = {key for key in published if re.search(r"trunk\.(norm|attn_pool|fc_norm)\.", key)}
    return published | {key: torch.randn(3) for key in text}, unused | text


LAYOUTS = {
    "DINOv2 with registers": ("vit_base_patch14_reg4_dinov2", as_dinov2),
    "DINOv3": ("vit_small_patch16_dinov3", as_dinov3),
    "DINOv3 with biases": ("vit_small_plus_patch16_dinov3_qkvb", as_dinov3),
    "MAE": ("vit_base_patch16_224.mae", as_mae),
    "DeiT-III": ("deit3_small_patch16_224", as_deit3),
    "BEiT": ("beit_base_patch16_224", as_beit),
    "BEiT-3": ("beit3_base_patch16_224", as_beit3),
    "EVA-02": ("eva02_base_patch14_224", as_eva02),
    "CLIP": ("vit_base_patch16_clip_224", as_clip),
    "SigLIP": ("vit_base_patch16_siglip_224", as_open_clip),
    "SAM": ("samvit_base_patch16", as_sam),
}


@pytest.mark.parametrize(("name", "publish"), LAYOUTS.values(), ids=LAYOUTS)
def test_published_layouts_are_read_back(
    name: str, publish: Callable[[StateDict], tuple[StateDict, set[str]]], tmp_path: Path
) -> None:
    weights = timm_weights(name)
    published, unused = publish(weights)
    vit = make_vit(name)
    report = load_pretrained_vit(vit, save(published, tmp_path))
    assert set(report.unused) == unused
    assert report.missing == ()
    patch_14 = weights["patch_embed.proj.weight"].shape[-1] == 14
    assert [entry.name for entry in report.resized] == (
        ["model.patch_embed.proj.weight"] if patch_14 else []
    )
    for key, value in vit.model.state_dict().items():
        expected = published["rope_embed.periods"] if key == "rope.periods" else weights[key]
        if key == "patch_embed.proj.weight":
            expected = resample_patch_embed(expected, [16, 16])
        torch.testing.assert_close(value, expected, msg=lambda text, key=key: f"{key}: {text}")


def test_lora_factors_keep_their_initial_values(tmp_path: Path) -> None:
    name = "vit_base_patch14_reg4_dinov2"
    published, unused = as_dinov2(timm_weights(name))
    vit = make_vit(name, lora_rank=2)
    before = {key: value.clone() for key, value in vit.state_dict().items() if "lora_" in key}
    report = load_pretrained_vit(vit, save(published, tmp_path))
    assert set(report.unused) == unused
    assert set(report.missing) == set(before) and len(before) == 3 * 2 * vit.depth
    assert all(torch.equal(vit.state_dict()[key], value) for key, value in before.items())


def test_everything_in_the_file_is_accounted_for(tmp_path: Path) -> None:
    weights = timm_weights("vit_base_patch14_reg4_dinov2", num_classes=0)
    published, _ = as_dinov2(weights)
    report = load_pretrained_vit(
        make_vit("vit_base_patch14_reg4_dinov2", img_size=160), save(published, tmp_path)
    )
    trunk_names = {name.removeprefix("model.") for name in report.loaded}
    sources = {"reg_token": "register_tokens"}
    used = {sources.get(name, name) for name in trunk_names}
    assert used | set(report.unused) == set(published)
    assert {str(entry) for entry in report.resized} == {
        "model.pos_embed: (1, 1370, 48) -> (1, 100, 48)",
        "model.patch_embed.proj.weight: (48, 3, 14, 14) -> (48, 3, 16, 16)",
    }


def test_positions_are_resized_by_timm(tmp_path: Path) -> None:
    weights = timm_weights("deit_small_patch16_224")
    vit = make_vit("deit_small_patch16_224", img_size=96)
    load_pretrained_vit(vit, save(weights, tmp_path))
    expected = resample_abs_pos_embed(weights["pos_embed"], [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(vit.model.pos_embed.data, expected)


def test_beit_tables_are_resized(tmp_path: Path) -> None:
    weights = timm_weights("beit_base_patch16_224")
    oracle = timm.create_model("beit_base_patch16_224", depth=DEPTH, **SMALL)
    oracle.load_state_dict(weights)
    oracle.set_input_size(img_size=(96, 96))
    vit = make_vit("beit_base_patch16_224", img_size=96)
    report = load_pretrained_vit(vit, save(weights, tmp_path))
    table = "blocks.1.attn.relative_position_bias_table"
    torch.testing.assert_close(vit.model.state_dict()[table], oracle.state_dict()[table])
    assert f"model.{table}" in [entry.name for entry in report.resized]


def test_weights_of_another_trunk_of_the_same_class(tmp_path: Path) -> None:
    vit, twin = make_vit("vit_small_patch16_dinov3"), make_vit("vit_small_patch16_dinov3")
    nn.init.normal_(vit.model.cls_token)
    report = load_pretrained_vit(twin, save(vit.state_dict(), tmp_path))
    assert report.is_exact
    assert all(map(torch.equal, twin.state_dict().values(), vit.state_dict().values()))


def jax_arrays(weights: StateDict, joined: bool) -> dict[str, np.ndarray]:
    """The image tower of SigLIP as big_vision stores it, with separate or stacked blocks."""
    blocks = []
    for index in range(DEPTH):
        block = {
            key.removeprefix(f"blocks.{index}."): value.numpy()
            for key, value in weights.items()
            if key.startswith(f"blocks.{index}.")
        }
        arrays = {}
        for old, new in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_1")):
            arrays[f"{new}/scale"], arrays[f"{new}/bias"] = (
                block[f"{old}.weight"],
                block[f"{old}.bias"],
            )
        attention = "MultiHeadDotProductAttention_0"
        heads = (DIM, 3, DIM // 3)
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * DIM, (part + 1) * DIM)
            arrays[f"{attention}/{name}/kernel"] = block["attn.qkv.weight"][rows].T.reshape(heads)
            arrays[f"{attention}/{name}/bias"] = block["attn.qkv.bias"][rows].reshape(heads[1:])
        out = block["attn.proj.weight"].T.reshape(3, DIM // 3, DIM)
        arrays[f"{attention}/out/kernel"], arrays[f"{attention}/out/bias"] = (
            out,
            block["attn.proj.bias"],
        )
        for number in (0, 1):
            dense = f"MlpBlock_0/Dense_{number}"
            arrays[f"{dense}/kernel"] = block[f"mlp.fc{number + 1}.weight"].T
            arrays[f"{dense}/bias"] = block[f"mlp.fc{number + 1}.bias"]
        blocks.append(arrays)
    tower = "params/img/Transformer/encoderblock"
    if joined:
        result = {f"{tower}/{key}": np.stack([b[key] for b in blocks]) for key in blocks[0]}
    else:
        result = {f"{tower}_{i}/{key}": v for i, b in enumerate(blocks) for key, v in b.items()}
    kernel = weights["patch_embed.proj.weight"].permute(2, 3, 1, 0)
    result |= {
        "params/img/embedding/kernel": kernel.numpy(),
        "params/img/embedding/bias": weights["patch_embed.proj.bias"].numpy(),
        "params/img/pos_embedding": weights["pos_embed"].numpy(),
    }
    return result  # fmt: skip


@pytest.mark.parametrize("joined", [False, True])
def test_siglip_archives_of_jax(joined: bool, tmp_path: Path) -> None:
    weights = timm_weights("vit_base_patch16_siglip_224")
    unused = {
        "params/img/Transformer/encoder_norm/scale", "params/img/MAPHead_0/probe", "params/t",
        "params/txt/Embed_0/embedding", "params/b",
    }  # fmt: skip
    arrays = jax_arrays(weights, joined) | {key: np.zeros(2, np.float32) for key in unused}
    np.savez(tmp_path / "siglip.npz", **arrays)
    vit = make_vit("vit_base_patch16_siglip_224")
    report = load_pretrained_vit(vit, tmp_path / "siglip.npz")
    assert set(report.unused) == unused
    assert (report.missing, report.resized) == ((), ())
    for key, value in vit.model.state_dict().items():
        torch.testing.assert_close(value, weights[key])


@pytest.mark.parametrize(
    ("name", "publish", "message"),
    [
        # registers that the model does not have, or has no weights for
        ("vit_base_patch14_dinov2", as_dinov2, "with registers .* without registers"),
        # another depth
        ("vit_base_patch14_reg4_dinov2", lambda w: ({k: v for k, v in as_dinov2(w)[0].items()
         if not k.startswith("blocks.1.")}, set()), r"missing.*model\.blocks\.1"),
        ("vit_base_patch14_reg4_dinov2", lambda w: (as_dinov2(w)[0] | {
            "blocks.2.norm1.bias": torch.ones(DIM)}, set()), r"blocks\.2\.norm1\.bias"),
        # another width
        ("vit_base_patch14_reg4_dinov2", lambda w: ({k: v[..., :24] for k, v in as_dinov2(w)[0]
         .items()}, set()), r"cannot be read as weights|misshapen"),
        ("vit_base_patch14_reg4_dinov2", lambda w: (as_dinov2(w)[0] | {
            "adapter.weight": torch.ones(2)}, set()), r"unused.*adapter\.weight"),
        ("vit_base_patch16_dinov3", as_dinov2, "vit_base_patch16_dinov3"),
        ("vit_base_patch16_224", as_dinov2, "vit_base_patch16_224"),
        ("samvit_base_patch16", as_dinov2, "samvit_base_patch16"),
        ("beit_base_patch16_224", as_dinov2, "beit_base_patch16_224"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    name: str,
    publish: Callable[[StateDict], tuple[StateDict, set[str]]],
    message: str,
    tmp_path: Path,
) -> None:
    published, _ = publish(timm_weights("vit_base_patch14_reg4_dinov2", num_classes=0))
    vit = make_vit(name)
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    with pytest.raises((CheckpointFileError, CheckpointMismatchError)) as refusal:
        load_pretrained_vit(vit, save(published, tmp_path))
    assert re.search(message, str(refusal.value), re.DOTALL)
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())


def test_nonzero_biases_are_not_dropped(tmp_path: Path) -> None:
    """Biases of queries and values; test_published_layouts_are_read_back drops zero ones."""
    published, _ = as_dinov3(timm_weights("vit_small_patch16_dinov3_qkvb"))
    with pytest.raises(CheckpointFileError, match="biases of queries and values.*'_qkvb'"):
        load_pretrained_vit(make_vit("vit_small_patch16_dinov3"), save(published, tmp_path))
