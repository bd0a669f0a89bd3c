"""The training loop in two processes on the CPU."""

from pathlib import Path

import pytest
from forked import run_group


@pytest.mark.slow
def test_two_processes() -> None:
    """They take the steps that one process takes on the whole batch."""
    run_group(Path(__file__).with_name("train_in_two.py"))
