"""ViT-Adapter for Detectron2: plain Vision Transformers as backbones for dense prediction.

Public names are imported on first use, so that ``import vit_adapter`` is fast and works even if
only some of the dependencies are installed.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME_OF_NAME = {
    "BEiT": "vit_adapter.backbone",
    "BEiTBaseline": "vit_adapter.backbone",
    "LazyPredictor": "vit_adapter.predictor",
    "PlainViT": "vit_adapter.backbone",
    "TimmViT": "vit_adapter.backbone",
    "UniPerceiver": "vit_adapter.backbone",
    "ViTAdapter": "vit_adapter.backbone",
    "ViTBaseline": "vit_adapter.backbone",
    "add_vit_adapter_config": "vit_adapter.yacs",
}

__all__ = ["__version__", *_HOME_OF_NAME]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF_NAME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
