"""The tool that compares results: what it prints, and its exit status."""

import json
import logging

import pytest
from tool_files import load_tool


@pytest.fixture(scope="module")
def tool():
    return load_tool("compare")


def write(path, shift):
    """Ten squares in ten images, found with a shift in pixels, and two wrong detections."""
    box = [10, 10, 40, 40]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 99, "height": 99} for i in range(1, 11)
        ],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": box, "area": 1600, "iscrowd": 0}
            for i in range(1, 11)
        ],
    }
    found = [
        {"image_id": i, "category_id": 1, "bbox": [10 + shift, 10, 40, 40], "score": 0.5 + i / 99}
        for i in range(1, 11)
    ]
    (path.parent / "val.json").write_text(json.dumps(content))
    path.write_text(json.dumps(found))


def test_prints_tables_and_a_verdict(tool, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr("vit_adapter.utils.command_line.setup_logger", lambda name: None)
    a, b, numbers = (tmp_path / name for name in ("a.json", "b.json", "numbers.json"))
    write(a, 9)
    write(b, 2)
    common = ["--annotations", str(tmp_path / "val.json"), "--resamples", "20"]
    with caplog.at_level(logging.INFO, "vit_adapter"):
        assert tool.main([str(a), str(b), *common, "--json", str(numbers)]) == 0
        assert "B is better by more than the choice of test images" in caplog.text
        assert tool.main([str(a), str(a), *common]) == 0
        assert "within noise, because zero lies in the interval" in caplog.text
    assert "| metric |" in capsys.readouterr().out.replace("|   metric |", "| metric |")
    (content,) = json.loads(numbers.read_text())
    assert content["task"] == "bbox" and not content["metrics"]["AP"]["is_noise"]
    assert content["verdict"] == "beyond images" and not content["covers_runs"]


def test_several_runs_of_each_side(tool, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr("vit_adapter.utils.command_line.setup_logger", lambda name: None)
    paths = [tmp_path / f"{shift}.json" for shift in (9, 10, 2, 3)]
    for path in paths:
        write(path, int(path.stem))
    names = list(map(str, paths))
    arguments = ["--a", *names[:2], "--b", *names[2:]]
    common = ["--annotations", str(tmp_path / "val.json"), "--resamples", "20"]
    with caplog.at_level(logging.INFO, "vit_adapter"):
        assert tool.main([*arguments, *common]) == 0
    assert f"A: {names[0]}, {names[1]}\nB: {names[2]}, " in capsys.readouterr().out
    assert "Boxes: AP differs by" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give two results, A and B"),
        (["--a", "a"], "give two results, A and B"),
        (["a", "b", "--a", "c", "--b", "d"], "give two results, A and B"),
        (["a", "b", "c"], "3 results given, expected two"),
    ],
)
def test_arguments_that_are_not_two_sides(tool, caplog, monkeypatch, arguments, message):
    monkeypatch.setattr("vit_adapter.utils.command_line.setup_logger", lambda name: None)
    assert tool.main(arguments) == 2
    assert message in caplog.text


def test_what_cannot_be_compared_is_an_error(tool, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("vit_adapter.utils.command_line.setup_logger", lambda name: None)
    assert tool.main([str(tmp_path), str(tmp_path)]) == 2
    assert "has none of the results" in caplog.text
