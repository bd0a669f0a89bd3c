"""Videos, frame by frame, with OpenCV.

Shapes: H/W sides of a frame in pixels.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

__all__ = ["VIDEO_SUFFIXES", "CameraReader", "VideoReader", "VideoWriter"]

_CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
VIDEO_SUFFIXES = tuple(_CODECS)
"""Endings of the files that can be written."""

_DEFAULT_FPS = 25.0  # where a file does not state its own


class VideoReader:
    """The frames of a video file.

    Args:
        path: a file of any format that OpenCV can read.

    Attributes:
        path: the file.
        fps: frames per second.
        num_frames: number of frames that the file states, or None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: OpenCV cannot read it as a video.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"the video {self.path} does not exist")
        self._capture = cv2.VideoCapture(str(self.path))
        if not self._capture.isOpened():
            raise ValueError(f"{self.path} cannot be read as a video; is it one, and complete?")
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.num_frames = int(count) if count > 0 else None
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or _DEFAULT_FPS

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the frames (H, W, 3), uint8 BGR, once.

        Raises:
            ValueError: the file has no frame, or ends long before it should.
        """
        count = 0
        try:
            while True:
                is_read, frame = self._capture.read()
                if not is_read:
                    break
                count += 1
                yield frame
        finally:
            self._capture.release()
        # The stated number is often an estimate, but not a bad one.
        if count < (self.num_frames or 1) * 0.9:
            raise ValueError(
                f"{self.path} is damaged: only {count} of {self.num_frames or 'its'} frames can be "
                "read"
            )


class CameraReader:
    """The latest frames of a camera; those that come while the caller is busy are skipped.

    Args:
        index: number of the camera, from 0.

    Attributes:
        fps: frames per second of the camera.

    Raises:
        ValueError: there is no such camera, or OpenCV cannot open it.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            raise ValueError(
                f"the camera {index} cannot be opened; is it connected, and not in use?"
            )
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or _DEFAULT_FPS
        self._news = threading.Condition()
        self._frame: np.ndarray | None = None
        self._is_open = True

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield seconds since the start, and the frame (H, W, 3), uint8 BGR, until it ends.

        Raises:
            ValueError: the camera gives no frame at all.
        """
        reader = threading.Thread(target=self._read, daemon=True)
        start, count = time.monotonic(), 0
        reader.start()
        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._frame is not None or not self._is_open)
                    frame, self._frame = self._frame, None
                if frame is None:
                    break
                count += 1
                yield time.monotonic() - start, frame
        finally:
            self._is_open = False
            reader.join()
            self._capture.release()
        if not count:
            raise ValueError(f"the camera {self._index} gives no frames")

    def _read(self) -> None:
        while self._is_open:
            is_read, frame = self._capture.read()
            with self._news:
                if is_read:
                    self._frame = frame
                else:
                    self._is_open = False
                self._news.notify()


class VideoWriter:
    """Writes frames of one size to a video file; a context manager.

    Args:
        path: ends in .mp4, .avi or .mkv. Its folder must exist.
        fps: frames per second.

    Raises:
        ValueError: the ending is another one.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        self._path = Path(path)
        suffix = self._path.suffix.lower()
        if suffix not in _CODECS:
            raise ValueError(f"{self._path} must end in {' '.join(VIDEO_SUFFIXES)}")
        self._codec = cv2.VideoWriter.fourcc(*_CODECS[suffix])
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._size: tuple[int, int] | None = None

    def write(self, frame: np.ndarray) -> None:
        """Append a frame (H, W, 3), uint8 BGR; an odd last row or column is left out.

        Raises:
            OSError: the file cannot be written.
            ValueError: the frame has another size than the first one.
        """
        height, width = (side - side % 2 for side in frame.shape[:2])  # as most codecs need
        if self._writer is None:
            self._size = (height, width)
            self._writer = cv2.VideoWriter(str(self._path), self._codec, self._fps, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"OpenCV cannot write the video {self._path}")
        if (height, width) != self._size:
            raise ValueError(
                f"a frame is {frame.shape[1]} x {frame.shape[0]} (width x height), but the first "
                f"one was {self._size[1]} x {self._size[0]}"
            )
        self._writer.write(np.ascontiguousarray(frame[:height, :width]))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
