#!/usr/bin/env python
"""Train or evaluate: ``python train_net.py --config-file configs/quick_start/...``; see --help."""

import warnings

# fvcore does, each time that it is imported; nobody who trains can do anything about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

from vit_adapter.engine.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
