"""DINOv2 and DINOv3 with the names of Hugging Face's transformers, changed to their authors' names.

Transformers 5 has other names than earlier releases. Files of both are read.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vit_adapter.checkpoint.pretrained.reader import rename_all

__all__ = ["with_authors_names"]

_PATCHES = re.compile(r"((?:\w+\.)*)embeddings\.patch_embeddings\.(?:projection\.)?weight")
_LAYER_SCALE = re.compile(r"\.layer_scale1\.lambda1$")
_BLOCK = re.compile(r"(?:(?:encoder|model)\.)?layer\.(\d+)\.(.+)")
_STEM = (
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(\w+)$", r"\1"),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
_IN_BLOCK = (
    (r"^layer_scale([12])\.lambda1$", r"ls\1.gamma"),
    (r"^attention\.(?:attention\.query|q_proj)\.", "attn.q."),
    (r"^attention\.(?:attention\.key|k_proj)\.", "attn.k."),
    (r"^attention\.(?:attention\.value|v_proj)\.", "attn.v."),
    (r"^attention\.(?:output\.dense|o_proj)\.", "attn.proj."),
    (r"^mlp\.weights_in\.", "mlp.w12."),
    (r"^mlp\.weights_out\.", "mlp.w3."),
)
_GATED = (
    (r"^mlp\.gate_proj\.", "mlp.w1."),
    (r"^mlp\.up_proj\.", "mlp.w2."),
    (r"^mlp\.down_proj\.", "mlp.w3."),
)
_NOT_GATED = ((r"^mlp\.up_proj\.", "mlp.fc1."), (r"^mlp\.down_proj\.", "mlp.fc2."))


def with_authors_names(state_dict: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Rename a DINOv2 or DINOv3 of transformers; other files stay as they are.

    Queries, keys and values, which transformers keeps apart, are joined, and so are the two halves
    of DINOv2's SwiGLU.

    Args:
        state_dict: of the model, alone or inside another one, such as a classifier.
        source: name of the file, for messages.

    Raises:
        CheckpointFileError: the file has a tensor under two names.
    """
    inside = next(filter(None, map(_PATCHES.fullmatch, state_dict)), None)
    if inside is None or not any(map(_LAYER_SCALE.search, state_dict)):
        return dict(state_dict)
    bare = {name.removeprefix(inside[1]): tensor for name, tensor in state_dict.items()}
    gated = any(".mlp.gate_proj." in name for name in bare)
    in_block = (*_IN_BLOCK, *(_GATED if gated else _NOT_GATED))

    def rename(name: str) -> str:
        block = _BLOCK.fullmatch(name)
        if block is None:
            return _substitute(name, _STEM)
        return f"blocks.{block[1]}.{_substitute(block[2], in_block)}"

    renamed = rename_all(bare, rename, source)
    _join(renamed, r"(blocks\.\d+\.attn\.)q\.(weight|bias)", "qkv", ("k", "v"))
    if "pos_embed" in renamed:
        _join(renamed, r"(blocks\.\d+\.mlp\.)w1\.(weight|bias)", "w12", ("w2",))
    elif "register_tokens" in renamed:
        renamed["storage_tokens"] = renamed.pop("register_tokens")
    return renamed


def _substitute(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        name, found = re.subn(pattern, replacement, name)
        if found:
            break
    return name


def _join(tensors: dict[str, Tensor], pattern: str, joined: str, rest: Sequence[str]) -> None:
    """Join tensors, in place.

    Args:
        tensors: name -> tensor.
        pattern: matches the name of the first part; its groups are what is before and after the
            name of a part.
        joined: name of the whole.
        rest: names of the other parts. Tensors of which one is missing stay as they are.
    """
    for name in list(tensors):
        found = re.fullmatch(pattern, name)
        if found is None:
            continue
        names = [name, *(f"{found[1]}{part}.{found[2]}" for part in rest)]
        parts = [tensors.get(part) for part in names]
        if parts[1] is None and names[1].endswith(".k.bias"):  # DINOv3's keys have none
            parts[1] = torch.zeros_like(parts[0])
        if any(part is None for part in parts):
            continue
        for part in names:
            tensors.pop(part, None)
        tensors[f"{found[1]}{joined}.{found[2]}"] = torch.cat(parts)
