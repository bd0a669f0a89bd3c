"""The public names of the package."""

import subprocess
import sys

import pytest

import vit_adapter


def test_public_names_are_found() -> None:
    for name in vit_adapter.__all__:
        assert getattr(vit_adapter, name) is not None
        assert name in dir(vit_adapter)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'ViTAdaptor'"):
        _ = vit_adapter.ViTAdaptor


def test_importing_the_package_imports_no_large_dependency() -> None:
    code = "import sys, vit_adapter; print({'torch', 'detectron2', 'timm'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
