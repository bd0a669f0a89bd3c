"""Check the download of a public data set and convert its labels; see --help."""

import sys
import warnings

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402
from vit_adapter.data.preparation import run

if __name__ == "__main__":
    sys.exit(run())
