"""How published files store the weights of timm's ViTs, made from those of timm."""

import re

import numpy as np
import torch
from torch import Tensor

DIM, DEPTH = 48, 2
HEADS = {"num_heads": 3}
StateDict = dict[str, Tensor]


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
