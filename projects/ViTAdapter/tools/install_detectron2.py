"""Runs ``python -m vit_adapter.install_detectron2`` while vit_adapter itself is not installed yet.

Usage::

    python projects/ViTAdapter/tools/install_detectron2.py [--archive pb1-detectron2-0.6.tar.gz]
    python projects/ViTAdapter/tools/install_detectron2.py --wheel-dir FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vit_adapter.install_detectron2.installer import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
