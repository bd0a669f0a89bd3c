"""Check the download of Mapillary Vistas and write its labels as class indices; see --help."""

import sys

from vit_adapter.data.semantic.preparation import run

if __name__ == "__main__":
    sys.exit(run("mapillary"))
