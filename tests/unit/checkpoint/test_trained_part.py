"""Checkpoints without the fixed weights of a ViT."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.backbone import PlainViT, TimmViT
from vit_adapter.backbone.frozen import store_in_bfloat16
from vit_adapter.backbone.lora import belongs_to_lora
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.checkpoint.loading import CheckpointMismatchError
from vit_adapter.checkpoint.trained_part import (
    FIXED_WEIGHTS,
    BaseWeights,
    BaseWeightsError,
    hash_fixed_weights,
)


class Detector(nn.Module):
    """A ViT, a head and running statistics."""

    def __init__(self, *, embed_dim: int = 8, seed: int = 0, **options: object) -> None:
        super().__init__()
        torch.manual_seed(seed)
        options = {"lora_rank": 2} | options
        self.vit = PlainViT(img_size=32, embed_dim=embed_dim, depth=2, num_heads=2, **options)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            for value in self.state_dict().values():
                if value.is_floating_point():
                    value.normal_()


def base_of(model: Detector, source: str = "vit.pth") -> BaseWeights:
    """The fixed weights of a model, as if they came from a file."""
    weights = {n: p.clone() for n, p in model.vit.state_dict().items() if not belongs_to_lora(n)}
    return BaseWeights(source, lambda other: other.vit.load_state_dict(weights, strict=False))


def save(model: Detector, folder: Path, **options: object) -> str:
    options = {"base": base_of(model), "trained_only": True} | options
    Checkpointer(model, str(folder), **options).save("model", iteration=3)
    return str(folder / "model.pth")


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return set(found) == set(expected) and all(torch.equal(found[n], expected[n]) for n in found)


def test_only_fixed_weights_of_blocks_are_left_out(tmp_path: Path) -> None:
    model = Detector()
    stored = load_checkpoint_file(save(model, tmp_path))
    left_out = set(model.state_dict()) - set(stored["model"])
    expected = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert left_out == {name for name in expected if name.startswith("vit.blocks.")}
    assert {"vit.pos_embed", "norm.running_mean"} <= set(stored["model"])
    assert set(stored[FIXED_WEIGHTS]["sha256"]) == left_out
    assert set(hash_fixed_weights(model)) == left_out


def test_values_come_from_the_gathered_weights_of_a_divided_model() -> None:
    whole, part = Detector(), Detector(seed=1)
    assert hash_fixed_weights(part) != hash_fixed_weights(whole)
    assert hash_fixed_weights(part, whole.state_dict()) == hash_fixed_weights(whole)


def test_tables_of_positions_are_stored_because_they_may_have_been_resized() -> None:
    vit = TimmViT(
        name="beit_base_patch16_224",
        **{"embed_dim": 24, "depth": 1, "img_size": 64, "model_args": {"num_heads": 2}},
        lora_rank=2,
    )
    table = "model.blocks.0.attn.relative_position_bias_table"
    assert not dict(vit.named_parameters())[table].requires_grad
    assert table not in hash_fixed_weights(vit)
    assert "model.blocks.0.attn.qkv.weight" in hash_fixed_weights(vit)


def test_everything_is_stored_by_default(tmp_path: Path) -> None:
    model = Detector()
    stored = load_checkpoint_file(save(model, tmp_path, trained_only=False))
    assert set(stored["model"]) == set(model.state_dict()) and FIXED_WEIGHTS not in stored


def test_the_base_is_loaded_below(tmp_path: Path) -> None:
    model = Detector()
    file = save(model, tmp_path)
    other = Detector(seed=1)
    rest = Checkpointer(other, base=base_of(model)).load(file)
    assert same(other.state_dict(), model.state_dict())
    assert rest == {"iteration": 3}


def test_the_base_is_not_read_again_if_the_model_has_it(tmp_path: Path) -> None:
    model, other = Detector(), Detector(seed=1)
    file = save(model, tmp_path)
    base_of(model).load(other)

    def load(model: nn.Module) -> None:
        raise AssertionError

    Checkpointer(other, base=BaseWeights("vit.pth", load)).load(file)
    assert same(other.state_dict(), model.state_dict())
    Checkpointer(other).load(file)  # also where the program knows of no base


@pytest.mark.parametrize(
    ("base", "given"),
    [
        (base_of(Detector(seed=2), "other.pth"), "train.vit_checkpoint is 'other.pth'"),
        (BaseWeights("", lambda model: None), "train.vit_checkpoint is not given"),
        (None, "train.vit_checkpoint is not given"),
    ],
)
def test_another_base_is_refused_with_both_named(
    base: BaseWeights | None, given: str, tmp_path: Path
) -> None:
    file = save(Detector(), tmp_path)
    with pytest.raises(BaseWeightsError) as error:
        Checkpointer(Detector(seed=1), base=base).load(file)
    message = str(error.value)
    assert "holds only the trained part" in message and given in message
    assert "train.vit_checkpoint='vit.pth'" in message
    count = len(hash_fixed_weights(Detector()))
    assert f"{count} of its {count} fixed tensors differ" in message


def test_a_base_that_cannot_be_read_is_explained(tmp_path: Path) -> None:
    file = save(Detector(), tmp_path)

    def load(model: nn.Module) -> None:
        raise FileNotFoundError("checkpoint 'vit.pth' does not exist.")

    with pytest.raises(FileNotFoundError) as error:
        Checkpointer(Detector(seed=1), base=BaseWeights("vit.pth", load)).load(file)
    message = str(error.value)
    assert "holds only the trained part" in message and "'vit.pth' does not exist." in message
    assert "give its new path in train.vit_checkpoint" in message


def test_weights_stored_in_bfloat16_are_rounded_for_a_model_in_float32(tmp_path: Path) -> None:
    model, other = Detector(), Detector(seed=1)
    base = base_of(model)
    store_in_bfloat16(model.vit)
    file = save(model, tmp_path, base=base)
    Checkpointer(other, base=base).load(file)
    assert other.vit.blocks[0].mlp.fc1.weight.dtype == torch.float32
    assert same(other.state_dict(), {n: v.float() for n, v in model.state_dict().items()})


def test_one_changed_number_is_noticed(tmp_path: Path) -> None:
    model = Detector()
    file = save(model, tmp_path)
    with torch.no_grad():
        model.vit.blocks[1].mlp.fc1.bias[3] += 1e-6
    with pytest.raises(
        BaseWeightsError, match=r"1 of its \d+ .* is vit\.blocks\.1\.mlp\.fc1\.bias"
    ):
        Checkpointer(model, base=BaseWeights("vit.pth", lambda model: None)).load(file)


def test_a_model_of_another_size_or_without_the_vit_is_refused(tmp_path: Path) -> None:
    file = save(Detector(), tmp_path)
    for model in (Detector(embed_dim=12), nn.Linear(3, 3)):
        with pytest.raises(BaseWeightsError, match="the same model as in training"):
            Checkpointer(model, base=BaseWeights("vit.pth", lambda model: None)).load(file)


def test_what_is_stored_is_matched_strictly(tmp_path: Path) -> None:
    model = Detector()
    file = save(model, tmp_path)
    model.head = nn.Linear(3, 4)
    with pytest.raises(CheckpointMismatchError, match="head.weight"):
        Checkpointer(model, base=base_of(model)).load(file)


def test_lora_without_its_rank_is_explained(tmp_path: Path) -> None:
    model = Detector(lora_rank=0)
    file = save(Detector(), tmp_path, trained_only=False)
    with pytest.raises(CheckpointMismatchError, match=r"with LoRA: give the lora_rank"):
        Checkpointer(model).load(file)
