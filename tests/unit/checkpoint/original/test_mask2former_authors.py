"""Heads of Mask2Former with the names of its authors' code, there and back."""

import re

import pytest
import torch
from detectron2.config import instantiate
from torch import Tensor

from vit_adapter import model_zoo
from vit_adapter.checkpoint.original import convert, revert
from vit_adapter.checkpoint.original.provenance import read_provenance

PIXELS, QUERIES = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
NAMES = [
    *(f"{PIXELS}.input_proj.{i}.{part}.{leaf}"
      for i in range(3) for part in (0, 1) for leaf in ("weight", "bias")),
    f"{PIXELS}.transformer.level_embed",
    *(f"{PIXELS}.transformer.encoder.layers.{i}.{part}.{leaf}"
      for i in range(2)
      for part in (
          *(f"self_attn.{p}"
            for p in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")),
          "norm1", "linear1", "linear2", "norm2",
      )
      for leaf in ("weight", "bias")),
    f"{PIXELS}.mask_features.weight", f"{PIXELS}.mask_features.bias",
    *(f"{PIXELS}.{part}.{leaf}"
      for part in ("adapter_1", "layer_1") for leaf in ("weight", "norm.weight", "norm.bias")),
    *(f"{QUERIES}.transformer_{attention}.{leaf}"
      for attention in ("self_attention_layers.{i}.self_attn",
                        "cross_attention_layers.{i}.multihead_attn")
      for leaf in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")),
    *(f"{QUERIES}.transformer_{part}.{leaf}"
      for part in ("self_attention_layers.{i}.norm", "cross_attention_layers.{i}.norm",
                   "ffn_layers.{i}.linear1", "ffn_layers.{i}.linear2", "ffn_layers.{i}.norm")
      for leaf in ("weight", "bias")),
    *(f"{QUERIES}.{part}.{leaf}"
      for part in ("decoder_norm", "class_embed", *(f"mask_embed.layers.{i}" for i in range(3)))
      for leaf in ("weight", "bias")),
    *(f"{QUERIES}.{part}.weight" for part in ("query_feat", "query_embed", "level_embed")),
]  # fmt: skip


def authors_names(num_layers: int = 3) -> list[str]:
    """All names of the head in a model with two layers in its encoder."""
    return list(dict.fromkeys(name.format(i=i) for name in NAMES for i in range(num_layers)))


def tensors(names: list[str]) -> dict[str, Tensor]:
    return {name: torch.randn(2) for name in names}


def test_every_parameter_of_the_head_has_its_name() -> None:
    """The quick-start model has two layers in its encoder, and three in its decoder."""
    model = model_zoo.get_config("quick_start/mask2former_instance_vit_adapter_tiny_scratch").model
    with torch.device("meta"):
        head = instantiate(model).head
    converted = convert(tensors(authors_names())).state_dict
    assert set(converted) == {f"head.{name}" for name in head.state_dict()}


def test_there_and_back() -> None:
    head = tensors(authors_names())
    others = tensors(["backbone.stem.conv1.weight", "criterion.empty_weight"])
    conversion = convert({**others, **head})
    assert conversion.dropped == {
        "backbone.stem.conv1.weight": "only the head is converted",
        "criterion.empty_weight": "follows from the config",
    }
    ours = {"backbone.vit.pos_embed": torch.zeros(1), **conversion.state_dict}
    back = revert(ours, tree="mask2former")
    assert back.dropped == {"backbone.vit.pos_embed": "only the head is converted"}
    assert list(back.state_dict) == list(head)
    assert all(back.state_dict[name] is tensor for name, tensor in head.items())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (f"{PIXELS}.adapter_1.norm.bias", "pixel_decoder.lateral_convs.0.gn.bias"),
        (f"{PIXELS}.layer_1.weight", "pixel_decoder.output_convs.0.conv.weight"),
        (f"{PIXELS}.transformer.level_embed", "pixel_decoder.level_encoding.weight"),
        # the attention to the image comes first
        (f"{QUERIES}.transformer_cross_attention_layers.4.norm.bias",
         "transformer_decoder.layers.4.norm1.bias"),
        (f"{QUERIES}.transformer_self_attention_layers.4.norm.bias",
         "transformer_decoder.layers.4.norm2.bias"),
        (f"{QUERIES}.mask_embed.layers.2.weight", "transformer_decoder.mask_embed.4.weight"),
        (f"{QUERIES}.static_query.weight", "transformer_decoder.query_feat.weight"),
    ],
)  # fmt: skip
def test_names_that_differ(theirs: str, ours: str) -> None:
    assert list(convert(tensors([theirs])).state_dict) == [f"head.{ours}"]


def test_other_names_are_refused() -> None:
    names = [f"{QUERIES}.query_feat.weight", f"{QUERIES}.input_proj.0.weight"]
    with pytest.raises(ValueError, match=re.escape(names[1])):
        convert(tensors(names))


def test_pixels_are_assumed_to_be_imagenets() -> None:
    provenance = read_provenance({}, authors_names())
    assert (provenance.tree, provenance.vit_feature_fusion) == ("mask2former", None)
    assert provenance.pixels.channels == "RGB" and not provenance.pixels_are_known
