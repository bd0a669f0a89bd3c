"""Reads COCO annotation files, and passes content to libraries that read only files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NEEDED = ("images", "categories")
_SECTIONS = (*_NEEDED, "annotations")


def read_coco_json(json_file: Path) -> dict[str, Any]:
    """Read an annotation file and check its outermost structure.

    UTF-8, UTF-16 and UTF-32 are read, with or without a byte order mark.

    Returns:
        The content. It has no ``annotations`` if the file has none, as in the files of test sets:
        absent, null or an empty list.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not JSON (the message names line and column), or has no ``images`` or
            ``categories``.
    """
    content = _decode(json_file)
    if not isinstance(content, dict):
        raise ValueError(
            f"{json_file} holds a {type(content).__name__}, but COCO's format is an object "
            f"with the keys {', '.join(_SECTIONS)}. (A list is the format of results.)"
        )
    missing = [key for key in _NEEDED if key not in content]
    if missing:
        raise ValueError(
            f"{json_file} has no {' and no '.join(map(repr, missing))}; it has the keys "
            f"{sorted(content)}. COCO's format needs {', '.join(_SECTIONS)}."
        )
    if content.get("annotations") in (None, []):
        content.pop("annotations", None)
    for key in _SECTIONS:
        section = content.get(key, [{}])
        if not isinstance(section, list) or not all(isinstance(entry, dict) for entry in section):
            raise ValueError(f"{key!r} in {json_file} must be a list of objects.")
        if not section:
            raise ValueError(f"{key!r} in {json_file} is empty, so there is nothing to learn from.")
    return content


def is_plain_utf8(json_file: Path) -> bool:
    """Return whether the file is UTF-8 without a byte order mark, which every reader can read."""
    with json_file.open("rb") as stream:
        return json.detect_encoding(stream.read(4)) == "utf-8"


@contextmanager
def temporary_json(content: dict[str, Any], name: str) -> Iterator[str]:
    """Write content to a file that is removed at the end of the ``with`` block.

    Args:
        content: anything that JSON can hold.
        name: name of the file, which libraries use in their messages.
    """
    with tempfile.TemporaryDirectory(prefix="vit_adapter_") as folder:
        path = Path(folder) / name
        path.write_text(json.dumps(content), encoding="ascii")
        yield str(path)


def _decode(json_file: Path) -> Any:
    if not json_file.is_file():
        raise FileNotFoundError(f"The annotation file {json_file} does not exist or is not a file.")
    try:
        content = json_file.read_bytes()
        text = content.decode(json.detect_encoding(content), "surrogatepass")
        return json.loads(text.lstrip("\ufeff"))  # byte order marks, perhaps several
    except json.JSONDecodeError as error:
        ends = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        cause = "The file is truncated or not fully downloaded; export or copy it again."
        raise ValueError(
            f"{json_file} is not valid JSON: {error.msg} at line {error.lineno}, column "
            f"{error.colno}. {cause if ends else 'Correct it there, or export the file again.'}"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{json_file} is not a text file in UTF-8 ({error.reason} at byte {error.start}). "
            "Give the COCO annotation file itself, not an archive or an image; a text in another "
            "encoding must be saved as UTF-8."
        ) from error
