"""Videos: what is read and written, frame by frame."""

import numpy as np
import pytest

from vit_adapter.data.video import VideoReader, VideoWriter


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_frames_there_and_back(tmp_path, suffix):
    path = tmp_path / f"video{suffix}"
    shades = list(range(0, 250, 25))
    with VideoWriter(path, fps=12.5) as writer:
        for shade in shades:
            writer.write(np.full((33, 51, 3), shade, np.uint8))
    video = VideoReader(path)
    assert (video.fps, video.num_frames) == (12.5, len(shades))
    frames = list(video)
    assert {frame.shape for frame in frames} == {(32, 50, 3)}  # even sides
    assert [frame.mean() for frame in frames] == pytest.approx(shades, abs=4)


def test_frames_of_another_size_are_refused(tmp_path):
    with VideoWriter(tmp_path / "video.avi", fps=5) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
        with pytest.raises(ValueError, match=r"48 x 32 .*first one was 32 x 32"):
            writer.write(np.zeros((32, 48, 3), np.uint8))


def test_a_video_that_ends_too_early(tmp_path, monkeypatch):
    path = tmp_path / "video.avi"
    with VideoWriter(path, fps=5) as writer:
        for _ in range(10):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    video = VideoReader(path)
    monkeypatch.setattr(video, "num_frames", 20)
    with pytest.raises(ValueError, match="video.avi is damaged: only 10 of 20 frames"):
        list(video)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(OSError, match="cannot write the video .*nowhere"):
        with VideoWriter(tmp_path / "nowhere" / "video.mp4", fps=5) as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8))
