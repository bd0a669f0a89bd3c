"""Weights of Uni-Perceiver for the trunk: its authors' files, as published or converted."""

import re

from torch import Tensor

from vit_adapter.backbone.uni_perceiver import UniPerceiver
from vit_adapter.checkpoint.loading import LoadReport
from vit_adapter.checkpoint.pretrained.reader import Reader, TrunkWeights, rename_all
from vit_adapter.checkpoint.pretrained.registry import refuse_other_families, register

_RENAMES = (
    (r"^fused_encoder\.", ""),
    (r"\.in_proj_(weight|bias)$", r".in_proj.\1"),
    (r"^video_embed\.", "visual_embed."),
    (r"^visual_embed\.embeddings\.", "visual_embed.patch_embed.proj."),
    (r"^visual_embed\.embeddings_st_pos\.", "visual_embed.patch_embed."),
)
"""From the names of the pre-training to those of ViT-Adapter's authors, applied in order."""

_PASSED_OVER = (
    r"^(token_embed|loss_prepare|prompt_embed|cls_token)\.",  # text, and heads of the pre-training
    r"^logit_scale",
    r"^visual_embed\.embeddings_type\.",  # shared by all patches; not in ViT-Adapter's encoder
)
"""Names in such files that are not weights of the trunk."""


def _adapt(vit: UniPerceiver, state_dict: dict[str, Tensor], source: str) -> TrunkWeights:
    """See :attr:`Reader.adapt`."""
    refuse_other_families(state_dict, UniPerceiver, source)
    return TrunkWeights(rename_all(state_dict, _rename, source))


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _advise(vit: UniPerceiver, report: LoadReport) -> str:
    """See :attr:`Reader.advise`."""
    return (
        "Choose weights of the same size, or change embed_dim, depth, num_heads or patch_size in "
        "the config. The position embedding is for 224 pixels (img_size=224); every forward pass "
        "resizes it to the image. Mixture-of-experts models are not supported."
    )


register(
    Reader(
        trunk=UniPerceiver,
        marks={r"^(visual|video)_embed\.": "Uni-Perceiver"},
        adapt=_adapt,
        passed_over=_PASSED_OVER,
        not_pretrained=(),
        advise=_advise,
    )
)
