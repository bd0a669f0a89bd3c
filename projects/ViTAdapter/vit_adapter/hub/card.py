"""The model card of a portable folder, with the metadata that the Hugging Face Hub reads."""

from collections.abc import Mapping
from typing import Any

import yaml

from vit_adapter.hub.folder import FolderContents

__all__ = ["licence_note", "model_card"]

_MAIN_METRICS = {"bbox": "AP", "segm": "AP", "sem_seg": "mIoU", "panoptic_seg": "PQ"}
_TASK_TAGS = {
    "instances": ("object-detection", "object-detection"),
    "semantic": ("image-segmentation", "semantic-segmentation"),
    "panoptic": ("image-segmentation", "panoptic-segmentation"),
}
"""Task -> the Hub's name of a task, and a tag."""

_USE = """```python
import cv2
from vit_adapter import LazyPredictor

predictor = LazyPredictor.from_pretrained("FOLDER or owner/name")
prediction = predictor(cv2.imread("image.jpg"))  # as Detectron2's DefaultPredictor
```"""

_UNSTATED = (
    "The licence of these weights was not stated. Ask whoever gave you this folder; the licences "
    "of the training data and of the pre-trained weights may limit their use."
)


def licence_note(licence: str, note: str) -> str:
    """Return the text of the licence note.

    Args:
        licence: its identifier, such as "cc-by-4.0"; "" if it is not stated.
        note: more about it, such as the sources of data and weights; may be empty.
    """
    stated = f"Licence of the weights: {licence}" if licence else _UNSTATED
    return "\n\n".join(filter(None, ["# Licence", stated, note])) + "\n"


def model_card(contents: FolderContents, *, title: str, licence: str = "") -> str:
    """Return the model card, in Markdown.

    Args:
        contents: what the folder holds.
        title: name of the model.
        licence: as for :func:`licence_note`.
    """
    header = yaml.safe_dump(_header(contents, title, licence), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {title}",
        f"{_description(contents)} Made with ViT-Adapter for Detectron2.",
        f"## Use\n\n{_USE}",
        f"## Results\n\n{_results(contents.metrics)}",
        f"## Classes\n\n{_classes(contents.classes)}",
        f"## Input\n\n{_input(contents)}",
        "## Licence\n\nSee [LICENSE.md](LICENSE.md).",
    ]
    return f"---\n{header}---\n\n" + "\n\n".join(sections) + "\n"


def _header(contents: FolderContents, title: str, licence: str) -> dict[str, Any]:
    pipeline, tag = _TASK_TAGS[_task(contents)]
    header: dict[str, Any] = {"library_name": "vit_adapter"}
    if licence:
        header["license"] = licence
    else:
        header |= {"license": "other", "license_name": "unstated", "license_link": "LICENSE.md"}
    header |= {"pipeline_tag": pipeline, "tags": ["vit-adapter", "detectron2", tag]}
    figures = _main_figures(contents.metrics)
    if figures:
        data = _data_name(contents)
        metrics = [
            {"type": name.rpartition("/")[2], "name": name, "value": round(value, 2)}
            for name, value in figures.items()
        ]
        header["metrics"] = sorted({metric["type"] for metric in metrics})
        result = {
            "task": {"type": pipeline},
            "dataset": {"type": data, "name": data},
            "metrics": metrics,
        }
        header["model-index"] = [{"name": title, "results": [result]}]
    return header


def _task(contents: FolderContents) -> str:
    return contents.config["task"]["name"]


def _data_name(contents: FolderContents) -> str:
    names = contents.config["dataloader"]["test"].get("dataset", {}).get("names", "custom")
    name = names if isinstance(names, str) else "+".join(names)
    return "custom" if name.startswith("custom_") else name


def _main_figures(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    figures = {}
    for task, values in metrics.items():
        name = _MAIN_METRICS.get(task.removesuffix("_ema"))
        if values.get(name) is not None:
            figures[f"{task}/{name}"] = values[name]
    return figures


def _description(contents: FolderContents) -> str:
    model = contents.config["model"]
    kind = str(model["_target_"]).rpartition(".")[2]
    return f"A {kind} for the task `{_task(contents)}`."


def _results(metrics: Mapping[str, Mapping[str, float | None]]) -> str:
    rows = [
        f"| {task} | {name} | {value:.2f} |"
        for task, values in metrics.items()
        for name, value in values.items()
        if value is not None and "-" not in name
    ]
    if not rows:
        return "None are given."
    return "\n".join(["| task | metric | value |", "|---|---|---|", *rows])


def _classes(classes: Mapping[str, Any]) -> str:
    names = classes.get("stuff_classes") or classes.get("thing_classes")
    if not names:
        return "Their names are unknown."
    return ", ".join(f"`{name}`" for name in names)


def _input(contents: FolderContents) -> str:
    order = contents.config["dataloader"]["test"]["mapper"]["image_format"]
    mean, deviation = (contents.preprocessing.get(key) for key in ("pixel_mean", "pixel_std"))
    return (
        f"The predictor resizes images as `config.json` says. The model gets them in {order} "
        f"order, minus the mean {mean}, divided by the deviation {deviation} "
        "(`preprocessing.json`)."
    )
