"""Assertions of the modules that tests import from are explained like those of the tests."""

import pytest

pytest.register_assert_rewrite("detection_cases", "dino_cases")
