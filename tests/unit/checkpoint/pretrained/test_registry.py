"""The registry of readers, and how a family is recognised by its names."""

import pytest

from vit_adapter.backbone import BEiT, PlainViT, TimmViT, UniPerceiver, ViTTrunk
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.pretrained import registry
from vit_adapter.checkpoint.pretrained.reader import Reader, TrunkWeights

PLAIN = "blocks.0.attn.qkv.weight"


class NewViT(PlainViT):
    """A ViT of a family that has the names of plain ViTs and more."""


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(registry, "_READERS", dict(registry._READERS))
    new = Reader(
        trunk=NewViT,
        marks={r"^blocks\.0\.gate$": "a new ViT"},
        adapt=lambda vit, state_dict, source: TrunkWeights(state_dict),
        passed_over=(),
        not_pretrained=(),
        advise=lambda vit, report: "",
    )
    registry.register(new)
    return new


def test_a_registered_reader_is_found(reader: Reader) -> None:
    sizes = {"img_size": 16, "embed_dim": 4, "depth": 1, "num_heads": 1}
    assert registry.find_reader(NewViT(**sizes)) is reader
    assert registry.find_reader(PlainViT(**sizes)) is not reader


def test_own_marks_are_looked_for_before_shared_ones(reader: Reader) -> None:
    names = [PLAIN, "blocks.0.gate"]
    registry.refuse_other_families(names, NewViT, "new.pth")
    with pytest.raises(
        CheckpointFileError, match="holds a new ViT, but the model has a PlainViT.*NewViT"
    ):
        registry.refuse_other_families(names, PlainViT, "new.pth")
    with pytest.raises(CheckpointFileError, match="holds a plain ViT, but the model has a NewViT"):
        registry.refuse_other_families([PLAIN], NewViT, "plain.pth")


@pytest.mark.parametrize(
    ("name", "trunk", "family"),
    [
        ("rel_pos_bias.relative_position_bias_table", BEiT, "BEiT or BEiT v2"),
        ("video_embed.embeddings.weight", UniPerceiver, "Uni-Perceiver"),
        ("storage_tokens", TimmViT, "a ViT with registers"),
        ("blocks.0.mlp.w12.weight", TimmViT, "a ViT with rotary positions or SwiGLU"),
        ("rope_embed.periods", TimmViT, "a ViT with rotary positions or SwiGLU"),
        ("beit3.vision_embed.cls_token", TimmViT, "a ViT inside another model"),
        (PLAIN, PlainViT, "a plain ViT"),
    ],
)
def test_families_are_recognised_by_names(name: str, trunk: type[ViTTrunk], family: str) -> None:
    registry.refuse_other_families([PLAIN, name], trunk, "vit.pth")
    other = BEiT if trunk is PlainViT else PlainViT
    with pytest.raises(CheckpointFileError, match=f"holds {family}, .* with a {trunk.__name__} as"):
        registry.refuse_other_families([PLAIN, name], other, "vit.pth")
