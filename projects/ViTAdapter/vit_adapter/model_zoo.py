"""The configs that come with the project, by name.

A name is the path of a config below ``configs/`` without ``.py``, e.g.
``coco/mask_rcnn_vit_adapter_tiny_deit_3x``. A source checkout (also after ``pip install -e``) uses
its own files; an installed wheel contains them as ``vit_adapter/configs``.
"""

from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from vit_adapter.utils.hints import did_you_mean

_PACKAGE = Path(__file__).resolve().parent
_SHARED_PARTS = "common"  # building blocks, which can be loaded by name but are not complete


def config_root() -> Path:
    """Return the folder of the configs.

    Raises:
        FileNotFoundError: the configs are missing from the installation.
    """
    # In a checkout this file is <root>/projects/ViTAdapter/vit_adapter/model_zoo.py. The checkout
    # comes first, so that a copy that a build has left in the package never hides edited files.
    candidates = [_PACKAGE / "configs"]
    if _PACKAGE.parts[-3:-1] == ("projects", "ViTAdapter"):
        candidates.insert(0, _PACKAGE.parents[2] / "configs")
    for folder in candidates:
        if folder.is_dir():
            return folder
    looked = ", ".join(str(folder) for folder in candidates)
    raise FileNotFoundError(
        f"the configs of vit_adapter are not at {looked}; reinstall the package (pip install .)"
    )


def list_configs() -> list[str]:
    """Return the sorted names of all complete configs, without the shared parts in ``common/``."""
    root = config_root()
    names = (path.relative_to(root).with_suffix("") for path in root.rglob("*.py"))
    return sorted(
        name.as_posix()
        for name in names
        if name.parts[0] != _SHARED_PARTS and not name.name.startswith("_")
    )


def get_config_file(name: str) -> str:
    """Return the absolute path of a config file.

    Args:
        name: path below ``configs/`` without ``.py``, including shared parts (``common/optim``).

    Raises:
        ValueError: there is no such config; the message suggests similar names.
    """
    root = config_root()
    path = root / f"{name}.py"
    if name and path.is_file() and root in path.resolve().parents:
        return str(path)
    hint = did_you_mean(
        name, list_configs(), otherwise="vit_adapter.model_zoo.list_configs() lists all names."
    )
    raise ValueError(
        f"No config is named {name!r} (expected a path below configs/ without .py).{hint}"
    )


def get_config(name: str) -> DictConfig:
    """Load a config by name.

    Returns:
        A new config object (``model, dataloader, data, optimizer, lr_multiplier, train`` for a
        complete one) that the caller may change freely.

    Raises:
        ValueError: there is no such config.
    """
    return LazyConfig.load(get_config_file(name))
