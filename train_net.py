#!/usr/bin/env python
"""Train or evaluate: ``python train_net.py --config-file configs/quick_start/...``; see --help."""

import warnings

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

from vit_adapter.engine.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
