"""Which files are images, and finding them."""

import glob
from collections.abc import Iterable
from pathlib import Path

__all__ = ["IMAGE_SUFFIXES", "find_images"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".npy")


def find_images(patterns: Iterable[str]) -> list[Path]:
    """Return the files that match paths, folders and globs, each only once.

    They are in the order of the patterns, and sorted by name within a folder or glob.

    Raises:
        FileNotFoundError: a pattern matches no image. (A path of a file counts as an image.)
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_file():
            matches = [path]
        else:
            folder = path.is_dir()
            names = path.iterdir() if folder else glob.glob(str(path), recursive=True)
            files = (Path(name) for name in names)
            matches = sorted(f for f in files if f.is_file() and f.suffix.lower() in IMAGE_SUFFIXES)
        if not matches:
            raise FileNotFoundError(
                f"no image found at {pattern!r}; expected an image, or a folder or glob with "
                f"files that end in {' '.join(IMAGE_SUFFIXES)}"
            )
        found.update(dict.fromkeys(matches))
    return list(found)
