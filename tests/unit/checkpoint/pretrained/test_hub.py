"""Weights by their names in timm; nothing is downloaded here."""

import pickle
from pathlib import Path

import pytest
import timm
import torch

from vit_adapter import TimmViT
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.pretrained import hub, load_pretrained_vit

NAME = "vit_small_patch16_dinov3.lvd1689m"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The requests to the hub, which answers each with a tensor."""
    asked = []

    def answer(*args: object, **options: object) -> dict[str, torch.Tensor]:
        asked.append((*args, options))
        return {"weight": torch.ones(1)}

    monkeypatch.setattr(hub, "load_state_dict_from_hf", answer)
    return asked


def test_timm_names_lead_to_their_repository(requests: list[tuple]) -> None:
    assert set(hub.read_weights(f"timm:{NAME}")) == {"weight"}
    assert set(hub.read_weights("hf-hub:timm/vit_small_patch16_dinov3.lvd1689m@main"))
    hub.read_weights("timm:vit_base_patch16_siglip_224.webli")
    assert requests == [
        (f"timm/{NAME}", {"weights_only": True}),
        (f"timm/{NAME}@main", {"weights_only": True}),
        ("timm/vit_base_patch16_siglip_224.webli", {"weights_only": True}),
    ]


def test_a_name_without_a_tag_means_the_default_weights(requests: list[tuple]) -> None:
    hub.read_weights("timm:vit_small_patch16_dinov3")
    assert requests == [(f"timm/{NAME}", {"weights_only": True})]


def test_weights_are_found_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"model": {"module.weight": torch.ones(1)}, "epoch": 3}
    monkeypatch.setattr(hub, "load_state_dict_from_hf", lambda *args, **options: content)
    assert set(hub.read_weights("hf-hub:owner/repository")) == {"weight"}


def test_a_pickle_with_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise pickle.UnpicklingError("Unsupported global: posix.system")

    monkeypatch.setattr(hub, "load_state_dict_from_hf", refuse)
    with pytest.raises(CheckpointFileError, match="'owner/repository' are a pickle with more"):
        hub.read_weights("hf-hub:owner/repository")


def test_weights_outside_the_hub_come_from_their_url(
    requests: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = timm.models.PretrainedCfg(url="https://example.org/vit.pth")
    monkeypatch.setattr(hub, "get_pretrained_cfg", lambda *args, **options: cfg)
    monkeypatch.setattr(hub, "load_state_dict_file", lambda name, mapped: {name: torch.ones(1)})
    assert set(hub.read_weights(f"timm:{NAME}")) == {"https://example.org/vit.pth"}
    assert requests == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:vit_small_patch16_dinov3.lvd", rf"no weights called .*Did you mean {NAME}"),
        ("timm:vit_small_patch16_dinov33", "no weights called 'vit_small_patch16_dinov33'. Did"),
        ("timm:beit3_giant_patch14_224", "no weights called 'beit3_giant_patch14_224'"),
        ("timm:", "no weights called ''"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str, requests: list[tuple]) -> None:
    with pytest.raises(ValueError, match=message):
        hub.read_weights(name)
    assert requests == []


def test_without_a_network_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError("Name or service not known\nRetrying") from TimeoutError("socket")

    monkeypatch.setattr(hub, "load_state_dict_from_hf", fail)
    vit = TimmViT(name=NAME, depth=1, embed_dim=48, model_args={"num_heads": 3})
    with pytest.raises(ConnectionError) as refusal:
        load_pretrained_vit(vit, f"timm:{NAME}")
    assert str(refusal.value) == (
        f"could not get the weights of 'timm/{NAME}' from the Hugging Face hub: Name or service "
        "not known. Download the file on a machine with network access (log in first if the "
        "repository asks for it) and give its path instead."
    )
    assert refusal.value.__cause__ is None and refusal.value.__suppress_context__


def test_files_are_read_from_their_path(tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.ones(2)}}, tmp_path / "vit.pth")
    assert set(hub.read_weights(str(tmp_path / "vit.pth"))) == {"weight"}
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        hub.read_weights(str(tmp_path / "none.pth"))
