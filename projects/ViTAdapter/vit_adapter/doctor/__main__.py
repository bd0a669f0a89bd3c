"""Runs the doctor."""

import sys

from vit_adapter.doctor.cli import main

sys.exit(main())
