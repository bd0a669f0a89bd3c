"""The modes of ViT-Adapter, one row per mode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vit_adapter.backbone.interaction import BaseExtractor, Extractor, InteractionSettings
from vit_adapter.backbone.light import LightExtractor

AdapterModeName = Literal["full", "frozen", "light"]


@dataclass(frozen=True)
class AdapterMode:
    """One way to put an adapter around a ViT.

    Attributes:
        has_injectors: whether spatial priors change the ViT's tokens.
        make_extractor: builds an extractor.
        num_extra_extractors: further extractors of the last interaction, if requested.
        freezes_vit: whether the ViT is a fixed feature extractor.
    """

    has_injectors: bool
    make_extractor: Callable[[InteractionSettings], BaseExtractor]
    num_extra_extractors: int
    freezes_vit: bool


MODES: dict[AdapterModeName, AdapterMode] = {
    "full": AdapterMode(
        has_injectors=True,
        make_extractor=Extractor,
        num_extra_extractors=2,
        freezes_vit=False,
    ),
    "frozen": AdapterMode(
        has_injectors=False,
        make_extractor=Extractor,
        num_extra_extractors=2,
        freezes_vit=True,
    ),
    "light": AdapterMode(
        has_injectors=False,
        make_extractor=LightExtractor,
        num_extra_extractors=0,
        freezes_vit=False,
    ),
}


def find_mode(name: str) -> AdapterMode:
    """Look up a mode by its name, a key of ``MODES``.

    Raises:
        ValueError: no mode has this name.
    """
    if name not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {name!r}")
    return MODES[name]
