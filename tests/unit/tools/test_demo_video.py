"""The demo tool on videos: what it draws, writes and refuses."""

import json
import time
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from demo_tool import FakePredictor, files


@pytest.fixture
def video(tmp_path):
    """Ten blue frames of 64 x 48 pixels."""
    path = tmp_path / "video.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5.0, (64, 48))
    for _ in range(10):
        writer.write(np.full((48, 64, 3), (200, 20, 10), np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(("limit", "count"), [([], 10), (["--limit", 4], 4)])
def test_a_video_is_drawn_frame_by_frame(demo, video, tmp_path, caplog, limit, count):
    out = tmp_path / "out" / "drawn.mp4"
    assert demo("--video", video, "--output", out, *limit) == 0
    assert f"{count} frames in {out}" in caplog.text
    assert files(out.parent) == ["drawn.mp4"]  # nothing unfinished
    drawn = cv2.VideoCapture(str(out))
    assert drawn.get(cv2.CAP_PROP_FPS) == 5.0
    frames = [frame for read, frame in iter(drawn.read, (False, None)) if read]
    assert len(frames) == count and frames[0].shape == (480, 640, 3)
    changed = np.abs(frames[0].astype(int) - [200, 20, 10]).sum(axis=2) > 60
    assert changed[:, :300].mean() > 0.9 and changed[:, 340:].mean() < 0.1


def test_json_holds_what_is_drawn_on_each_frame(demo, video, tmp_path):
    results = tmp_path / "new" / "found.json"
    arguments = ["--video", video, "--output", tmp_path / "out.mp4", "--limit", 3]
    assert demo(*arguments, "--json", results) == 0
    entries = json.loads(results.read_text())
    assert [entry["image_id"] for entry in entries] == [1, 2, 3]
    assert {entry["file_name"] for entry in entries} == {str(video)}
    assert entries[2]["bbox"] == [0, 0, 32, 48]  # in pixels of the video
    assert demo(*arguments, "--json", results, "--confidence-threshold", 0.9) == 0
    assert json.loads(results.read_text()) == []


def test_a_json_that_cannot_be_written_is_refused_at_once(demo, video, tmp_path, caplog):
    out = tmp_path / "out.mp4"
    assert demo("--video", video, "--output", out, "--json", video / "found.json") == 2
    assert "found.json cannot be written" in caplog.text
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "content", "output", "message"),
    [
        ("none.mp4", None, "out.mp4", "none.mp4 does not exist"),
        ("none.mp4", None, "video.mp4", "none.mp4 does not exist"),
        ("text.mp4", b"no video", "out.mp4", "text.mp4 cannot be read as a video"),
        ("video.mp4", "half", "out.mp4", "video.mp4 "),
        ("video.mp4", "whole", "out.gif", "out.gif must end in .mp4 .avi .mkv"),
        ("video.mp4", "whole", "folder.mp4", "folder.mp4 is a folder"),
        ("video.mp4", "whole", "video.mp4", "video.mp4 is the input; choose another --output"),
    ],
)
def test_unusable_videos(demo, video, tmp_path, caplog, name, content, output, message):
    whole = video.read_bytes()
    contents = {"whole": whole, "half": whole[: len(whole) // 2]}
    if content is not None:
        (tmp_path / name).write_bytes(contents.get(content, content))
    (tmp_path / "folder.mp4").mkdir()
    before = sorted(tmp_path.iterdir())
    assert demo("--video", tmp_path / name, "--output", tmp_path / output) == 2
    assert message in caplog.text
    assert sorted(tmp_path.iterdir()) == before
    if output == "video.mp4":
        assert video.read_bytes() == whole


def test_a_video_is_written_whole_or_not_at_all(demo, demo_module, monkeypatch, video, tmp_path):
    class Predictor(FakePredictor):
        calls = 0

        def __call__(self, image):
            Predictor.calls += 1
            if Predictor.calls == 5:
                raise ValueError("on purpose")
            return super().__call__(image)

    monkeypatch.setattr(demo_module, "LazyPredictor", Predictor)
    out = tmp_path / "out.mp4"
    out.write_bytes(b"earlier")
    assert demo("--video", video, "--output", out) == 2
    assert out.read_bytes() == b"earlier"
    assert files(tmp_path) == ["out.mp4", "video.mp4"]


def test_a_video_replaces_images(demo, video, tmp_path, caplog):
    assert demo("--video", video, "--input", tmp_path, "--output", tmp_path / "out.mp4") == 2
    assert "--video cannot be combined with --input" in caplog.text


class FakeCamera:
    """Frames at 50 per second; the first value of each is its number."""

    count = 0

    def __init__(self, index):
        self.index = index

    def isOpened(self):
        return self.index == 0

    def get(self, key):
        return 50.0

    def read(self):
        time.sleep(0.02)
        FakeCamera.count += 1
        return True, np.full((48, 64, 3), FakeCamera.count % 256, np.uint8)

    def release(self):
        pass


def test_a_camera_skips_frames_and_keeps_time(demo, demo_module, monkeypatch, tmp_path, caplog):
    seen = []

    class Predictor(FakePredictor):
        def __call__(self, image):
            seen.append(int(image[0, 0, 0]))
            time.sleep(0.1)
            return super().__call__(image)

    monkeypatch.setattr(demo_module, "LazyPredictor", Predictor)
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    out = tmp_path / "out.mp4"
    assert demo("--camera", 0, "--output", out, "--limit", 3) == 0
    assert "3 frames in" in caplog.text and len(seen) == 3
    assert min(np.diff(seen)) > 1
    monkeypatch.undo()
    frames = cv2.VideoCapture(str(out)).get(cv2.CAP_PROP_FRAME_COUNT)
    assert frames > 3


@pytest.mark.parametrize("source", ["--video", "--camera"])
def test_models_of_stored_channels_are_refused(
    demo, demo_module, monkeypatch, video, tmp_path, caplog, source
):
    monkeypatch.setattr(demo_module, "LazyPredictor", Mock(return_value=Mock(image_format=3)))
    if source == "--camera":
        monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    given = video if source == "--video" else 0
    assert demo(source, given, "--output", tmp_path / "new" / "out.mp4") == 2
    assert "the model takes images of 3 channels" in caplog.text
    assert files(tmp_path) == ["video.mp4"]


def test_a_missing_camera_is_an_error(demo, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    assert demo("--camera", 1, "--output", tmp_path / "out.mp4") == 2
    assert "the camera 1 cannot be opened" in caplog.text
