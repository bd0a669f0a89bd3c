"""Check the download of a public data set and write its labels as class indices; see --help."""

import sys

from vit_adapter.data.semantic.preparation import run

if __name__ == "__main__":
    sys.exit(run())
