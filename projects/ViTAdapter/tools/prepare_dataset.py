"""Check the download of a public data set and convert its labels; see --help."""

import sys

from vit_adapter.data.preparation import run

if __name__ == "__main__":
    sys.exit(run())
