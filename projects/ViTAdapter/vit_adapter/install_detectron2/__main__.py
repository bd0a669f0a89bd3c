"""Runs the installer."""

import sys

from vit_adapter.install_detectron2.installer import main

sys.exit(main())
