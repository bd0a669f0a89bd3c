"""Weights for timm's ViTs: timm's own files, and those published by the models' authors.

timm's readers know the layouts of DINOv2, DINOv3, MAE, DeiT, BEiT, BEiTv2, BEiT-3, EVA-02, CLIP
and SAM. This module adds JAX archives (AugReg, SigLIP) and Detectron2's ViTDet.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from timm.models import beit, eva, vision_transformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from vit_adapter.backbone.timm_vit import TimmViT
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.loading import LoadReport, ResizedEntry
from vit_adapter.checkpoint.pretrained.augreg import convert_augreg, is_augreg
from vit_adapter.checkpoint.pretrained.big_vision import is_big_vision, rename_big_vision
from vit_adapter.checkpoint.pretrained.reader import Reader, TrunkWeights
from vit_adapter.checkpoint.pretrained.registry import register
from vit_adapter.checkpoint.pretrained.structure import refuse_other_tokens
from vit_adapter.checkpoint.pretrained.traced import TracedTensor
from vit_adapter.checkpoint.pretrained.vitdet import convert_sam

_QKV_BIAS = r"^blocks\.\d+\.attn\.qkv\.bias$"

_PASSED_OVER = (
    # classifiers, final norms and pooling
    r"^(visual\.(trunk\.)?)?(head|head_dist|norm|fc_norm|attn_pool|pre_logits)\b",
    r"^visual\.(proj|ln_post)\b",
    r"^(params/)?(head|pre_logits)\b",
    r"^(params/(img/)?)?Transformer/encoder_norm/",
    r"^params/img/(MAPHead_0|head)/",
    # masked pre-training
    r"(^|\.)mask_token$",
    r"^decoder_",  # MAE
    r"^(lm_head|cls_pt_layers)\.",  # BEiT, BEiTv2
    r"^local_cls_norm\.",  # DINOv3
    # what follows from the architecture
    r"relative_position_index$",
    r"(^|\.)rope(_embed)?\.(freqs_cos|freqs_sin|periods)$",  # see _PERIODS
    r"\.attn\.qkv\.bias_mask$",
    _QKV_BIAS,  # DINOv3, where it is zero; see _lost_biases
    # text and fusion parts of CLIP, SigLIP and BEiT-3
    r"^(transformer|token_embedding|ln_final|text)\.",
    r"^(positional_embedding|text_projection|logit_scale|logit_bias)$",
    r"^(input_resolution|context_length|vocab_size)$",
    r"^params/(txt/|t$|b$)",
    r"^beit3\.(text_embed\.|encoder\.layer_norm\.)",
    r"^beit3\..*\.B\.",
    r"^(mlm_head|mim_head|itm_head|language_head|vision_head|pooler)\.",
    # the rest of SAM and of a detector with ViTDet
    r"^(image_encoder\.)?neck\.",
    r"^(prompt_encoder|mask_decoder)\.",
    r"^backbone\.simfp_",
    r"^(proposal_generator|roi_heads|anchor_generator)\.",
    r"^pixel_(mean|std)$",
)  # fmt: skip
"""Names in such files that are not weights of the trunk."""

_PERIODS = re.compile(r"^rope(_embed)?\.periods$")
"""DINOv3's rotary periods, which timm's readers drop; trunks with other positions have none."""

_SHARED_BIAS = "rel_pos_bias.relative_position_bias_table"
_BIAS_TABLE = "relative_position_bias_table"
_MODEL = "model."
"""The attribute of :class:`TimmViT` that holds timm's module."""


def _adapt(vit: TimmViT, state_dict: dict[str, Tensor], source: str) -> TrunkWeights:
    """See :attr:`Reader.adapt`; every name that was not used keeps its own name."""
    model = vit.model
    if all(key.startswith(_MODEL) for key in state_dict):  # saved from a TimmViT
        state_dict = {key.removeprefix(_MODEL): value for key, value in state_dict.items()}
    refuse_other_tokens(state_dict, vit, source)
    lost = _lost_biases(vit, state_dict, source)
    readable = {key: value for key, value in state_dict.items() if key not in lost}
    try:
        converted = _convert(model, TracedTensor.name_all(readable))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, ValueError) as error:
        raise CheckpointFileError(
            f"checkpoint {source!r} cannot be read as weights of {vit.name!r}: "
            f"{type(error).__name__}: {error}. Its first names are "
            f"{', '.join(list(state_dict)[:5])}."
        ) from error
    names = model.state_dict().keys()
    weights: dict[str, Tensor] = {}
    resized = []
    used: set[str] = set()
    for key, value in converted.items():
        if key not in names or not isinstance(value, TracedTensor):
            continue
        weights[_MODEL + key] = value.plain().contiguous()
        used |= value.sources
        entry = _resized_entry(key, value, state_dict)
        if entry is not None:
            resized.append(entry)
    weights |= {key: value for key, value in state_dict.items() if key not in used}
    for key in filter(_PERIODS.match, state_dict):
        if "rope.periods" in names:
            weights[f"{_MODEL}rope.periods"] = weights.pop(key)
    return TrunkWeights(weights, tuple(resized))


def _convert(model: nn.Module, state_dict: dict[str, TracedTensor]) -> Mapping[str, Tensor]:
    """Rename to timm's layout and resize positions and patch kernel, with timm's own readers."""
    if is_big_vision(state_dict):
        state_dict = rename_big_vision(state_dict)
    if is_augreg(state_dict):
        state_dict = convert_augreg(state_dict)
    if _SHARED_BIAS in state_dict:
        table = state_dict.pop(_SHARED_BIAS)
        for index in range(len(model.blocks)):
            state_dict[f"blocks.{index}.attn.{_BIAS_TABLE}"] = table
    read = next(read for cls, read in _READERS.items() if isinstance(model, cls))
    return read(state_dict, model)


_READERS: dict[type[nn.Module], Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]] = {
    VisionTransformerSAM: convert_sam,
    eva.Eva: eva.checkpoint_filter_fn,
    beit.Beit: beit.checkpoint_filter_fn,
    vision_transformer.VisionTransformer: partial(
        vision_transformer.checkpoint_filter_fn, adapt_layer_scale=True
    ),
}


def _resized_entry(
    key: str, value: TracedTensor, state_dict: Mapping[str, Tensor]
) -> ResizedEntry | None:
    """The entry for a resized tensor; None if it was only cut, joined or transposed."""
    largest = max((state_dict[source] for source in value.sources), key=Tensor.numel)
    if not value.resampled and not (key.endswith(_BIAS_TABLE) and largest.shape != value.shape):
        return None
    return ResizedEntry(_MODEL + key, tuple(largest.shape), tuple(value.shape))


def _lost_biases(vit: TimmViT, state_dict: Mapping[str, Tensor], source: str) -> set[str]:
    """Names of the biases of queries, keys and values that the model does not have.

    DINOv3's files have them for every size. For some sizes they are all zero, and the model in timm
    has none. The bias of the keys is masked in DINOv3 and has no effect.

    Raises:
        CheckpointFileError: the biases of queries or values are not zero.
    """
    names = vit.model.state_dict().keys()
    lost = set()
    for key, bias in state_dict.items():
        if not re.fullmatch(_QKV_BIAS, key) or {key, key.replace("qkv.bias", "q_bias")} & names:
            continue
        query, _, value = bias.chunk(3)
        if torch.count_nonzero(query) or torch.count_nonzero(value):
            raise CheckpointFileError(
                f"checkpoint {source!r} has biases of queries and values ({key}), but "
                f"{vit.name!r} has none; for DINOv3 use the timm model whose name ends in '_qkvb'"
            )
        lost.add(key)
    return lost


def _advise(vit: TimmViT, report: LoadReport) -> str:
    """See :attr:`Reader.advise`."""
    return (
        f"The model is timm's {vit.name!r} with {vit.depth} blocks of width {vit.embed_dim}. "
        "Choose its weights, or name the timm model that the weights belong to."
    )


register(
    Reader(
        trunk=TimmViT,
        marks={
            r"^(reg_token|register_tokens|storage_tokens)$": "a ViT with registers",
            r"(^|\.)rope(_embed)?\.|\.mlp\.w(1|2|12|3)\.": (
                "a ViT with rotary positions or SwiGLU"
            ),
            r"^(beit3\.|image_encoder\.|backbone\.net\.|visual\.)": "a ViT inside another model",
        },
        adapt=_adapt,
        passed_over=_PASSED_OVER,
        not_pretrained=(),
        advise=_advise,
    )
)
