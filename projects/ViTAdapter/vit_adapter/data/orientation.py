"""Finds out from sizes whether annotations follow the EXIF orientation of their images.

The readers compare sizes. If the stored and the upright size are equal, upright is assumed, unless
another image shows that the annotation tool ignored the EXIF orientation.
"""

from __future__ import annotations

import logging

_Size = tuple[int, int]  # (height, width)

_EXAMPLES = 3

_logger = logging.getLogger(__name__)


class Orientations:
    """Collects the images of a data set whose EXIF orientation matters."""

    def __init__(self) -> None:
        self._as_stored: list[str] = []
        self._unclear: list[str] = []

    def add(self, name: str, size: _Size, sizes: tuple[_Size, _Size, bool]) -> bool:
        """Note an image.

        Args:
            name: name of the image, for messages.
            size: (height, width) in the annotations, or of the label map.
            sizes: the result of ``read_sizes`` for the image.

        Returns:
            Whether the image has this size, either upright or as stored.
        """
        stored, upright, has_orientation = sizes
        if size == upright:
            self._unclear += [name] if has_orientation and stored == upright else []
        elif size == stored:
            self._as_stored.append(name)
        return size in (stored, upright)

    def contradictions(self) -> tuple[str, list[str]]:
        """Warn about images that are read as stored, and about those whose frame is unclear.

        Returns:
            The problem and its images: the unclear ones, if some images are read as stored.
        """
        if self._as_stored:
            _logger.warning(
                "%d images are annotated as they are stored, ignoring their EXIF orientation, and "
                "are read in the same way: %s.",
                len(self._as_stored),
                _first(self._as_stored),
            )
            problem = (
                "image whose EXIF orientation does not change its size, while others "
                f"({self._as_stored[0]}) are annotated as if they had none; store all images "
                "upright"
            )
            return problem, self._unclear
        if self._unclear:
            _logger.warning(
                "%d images have an EXIF orientation that does not change their size. Their "
                "annotations are assumed to be for the upright image, not the stored one: %s.",
                len(self._unclear),
                _first(self._unclear),
            )
        return "", []


def _first(names: list[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")
