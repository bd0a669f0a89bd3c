#!/usr/bin/env python
"""Train or evaluate: ``python train_net.py --config-file configs/quick_start/...``; see --help."""

from vit_adapter.engine.cli import main

if __name__ == "__main__":
    main()
