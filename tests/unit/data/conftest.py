"""A small generated data set, and catalogs that are restored afterwards."""

import pytest

from vit_adapter.data.shapes.catalog import generate_shapes, register_shapes

SIZE = dict(num_train=6, num_val=4, image_size=96, seed=3)


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("data") / "shapes", **SIZE)


@pytest.fixture
def registered_shapes(shapes_root):
    register_shapes(shapes_root, **SIZE)
    yield shapes_root
    register_shapes()
