"""Assertions of the modules that tests import from are explained like those of the tests."""

import pytest

pytest.register_assert_rewrite("case_files", "detection_cases", "dino_cases")
