"""Telling the families of pre-trained ViTs apart by the names of their parameters."""

import re
from collections.abc import Iterable

from vit_adapter.checkpoint.files import CheckpointFileError

__all__ = ["refuse_other_families"]

_FAMILIES = (
    (r"relative_position_bias_table$", "BEiT or BEiT v2", "BEiT"),
    (r"^(visual|video)_embed\.", "Uni-Perceiver", "UniPerceiver"),
    (r"^(reg_token|register_tokens|storage_tokens)$", "a ViT with registers", "TimmViT"),
    (r"(^|\.)rope(_embed)?\.|\.mlp\.w(1|2|12|3)\.", "a ViT with rotary positions or SwiGLU",
     "TimmViT"),
    (r"^(beit3\.|image_encoder\.|backbone\.net\.|visual\.)", "a ViT inside another model",
     "TimmViT"),
    (r"^blocks\.\d+\.attn\.qkv\.weight$", "a plain ViT", "PlainViT"),
)  # fmt: skip
"""How names give a family away, what to call it, and which trunk it fits; the first decides."""


def refuse_other_families(names: Iterable[str], trunk: str, source: str) -> None:
    """Make sure that a checkpoint's names are those of the family that a trunk belongs to.

    Args:
        names: of the parameters.
        trunk: class of the trunk, such as "PlainViT".
        source: the file, for the message.

    Raises:
        CheckpointFileError: they are another's, or those of no ViT.
    """
    names = list(names)
    for pattern, family, fitting in _FAMILIES:
        if not any(re.search(pattern, name) for name in names):
            continue
        if fitting == trunk:
            return
        raise CheckpointFileError(
            f"checkpoint {source!r} holds {family}, the model a {trunk}; nothing was loaded. Build "
            f"the model with a {fitting} as its vit, or choose other weights."
        )
    raise CheckpointFileError(
        f"checkpoint {source!r} holds no plain ViT that is known here. The first names are "
        f"{', '.join(names[:5])}. For the checkpoint of a whole detector use train.init_checkpoint."
    )
