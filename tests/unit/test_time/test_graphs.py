"""GraphedModel: the results of the model, by a graph for each of the first sizes."""

import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from detector_families import build, random_image
from fake_cuda import FakeStream
from torch import nn

from vit_adapter import model_zoo
from vit_adapter.config.model import build_model
from vit_adapter.test_time import GraphedModel, MixedPrecision, graphs
from vit_adapter.test_time.graphs import CapturedFunction

DETECTORS = ["mask_rcnn", "cascade", "htc", "atss", "gfl", "sparse"]
SEGMENTORS = ["upernet", "semantic_fpn", "mask2former"]


def make_model(name: str) -> nn.Module:
    if name in DETECTORS:
        return build(name)
    torch.manual_seed(0)
    cfg = model_zoo.get_config(f"quick_start/{name}_vit_adapter_tiny_scratch")
    cfg.train.device = "cpu"
    return build_model(cfg).eval()


@torch.no_grad()
def run(model: nn.Module, height: int = 64, width: int = 96) -> dict:
    (output,) = model([{"image": random_image(height, width), "height": 80, "width": 120}])
    if "instances" in output:
        fields = output["instances"].get_fields().items()
        return {name: getattr(value, "tensor", value) for name, value in fields}
    return output


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The sizes for which "graphs" run: functions whose outputs the next call overwrites."""
    seen, kept = [], {}

    def make(function):
        def call(images):
            seen.append(tuple(images.shape))
            outputs = function(images)
            static = kept.setdefault((id(function), images.shape), outputs)
            for old, new in zip(static, outputs, strict=True):
                old.copy_(new)
            return static

        return call

    monkeypatch.setattr(graphs, "_COMPILE", {name: make for name in graphs.GRAPHS})
    return seen


@pytest.mark.parametrize("name", DETECTORS + SEGMENTORS)
def test_results_are_those_of_the_model(name, sizes):
    model = make_model(name)
    expected = run(model)
    graphed = GraphedModel(model, "compile")
    found, again = run(graphed), run(graphed)
    assert sizes == [(1, 3, 64, 96)] * 2 and not graphed.training
    for result in (found, again):
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_precision_applies_inside(sizes):
    model = make_model("mask2former")
    expected = run(MixedPrecision(model, torch.bfloat16))
    found = run(MixedPrecision(GraphedModel(model, "compile"), torch.bfloat16))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_number_of_sizes_is_bounded(sizes, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST_SIZES", 2)
    model = make_model("atss")
    expected = [run(model, 64, 32 * side) for side in (1, 2, 3)]
    graphed = GraphedModel(model, "cuda_graph")
    for _ in range(2):
        found = [run(graphed, 64, 32 * side) for side in (1, 2, 3)]
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert [width for *_, width in sizes] == [32, 64, 32, 64]


def test_threads_get_their_own_results(sizes):
    model = make_model("upernet")
    seeds = range(8)
    images = [[{"image": random_image(64, 64, seed)}] for seed in seeds]
    with torch.no_grad():
        expected = [model(batch)[0]["sem_seg"] for batch in images]
    graphed = torch.no_grad()(GraphedModel(model, "compile").forward)
    with ThreadPoolExecutor(4) as threads:
        found = [output[0]["sem_seg"] for output in threads.map(graphed, images)]
    torch.testing.assert_close(found, expected)


def test_the_model_is_left_as_it_was(sizes):
    model = make_model("atss")
    graphed = GraphedModel(model, "compile")
    image = random_image(64, 96)
    model([{"image": image}])  # with gradients
    assert not sizes
    del graphed
    gc.collect()
    assert not any("forward" in vars(module) for module in model.modules())
    run(model)
    assert not sizes


def test_a_newer_object_takes_the_place_of_an_older(sizes):
    model = make_model("atss")
    expected = run(model)
    older = GraphedModel(model, "compile")
    newer = GraphedModel(model, "compile")
    torch.testing.assert_close(run(newer), expected, rtol=0, atol=0)
    assert len(sizes) == 1
    del older
    gc.collect()
    torch.testing.assert_close(run(newer), expected, rtol=0, atol=0)
    assert len(sizes) == 2


def test_unknown_graphs():
    with pytest.raises(ValueError, match="compile, cuda_graph, got 'fast'"):
        GraphedModel(make_model("atss"), "fast")


def test_compiles(monkeypatch):
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **o: compiler(f, backend="eager", **o))
    torch.compiler.reset()
    model = make_model("atss")
    expected = run(model)
    with torch._dynamo.config.patch(recompile_limit=1):  # for each wrapper
        for _ in range(2):
            found = run(GraphedModel(model, "compile"))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


class Captures(threading.local):
    """Takes the place of what captures use of `torch.cuda`, and notes the order of it."""

    device = 0

    def __init__(self, notes: list[tuple]) -> None:
        self.notes = notes

    @contextmanager
    def select(self, device: torch.device) -> Iterator[None]:
        before, self.device = self.device, device
        yield
        self.device = before

    @contextmanager
    def capture(self, graph, stream, capture_error_mode) -> Iterator[None]:
        self.notes.append(("begin", self.device, stream, capture_error_mode))
        time.sleep(0.01)  # other threads run
        yield
        self.notes.append(("end", self.device))

    def synchronize(self) -> None:
        self.notes.append(("synchronize", self.device))

    def CUDAGraph(self) -> "Captures":  # noqa: N802
        return self

    def replay(self) -> None:
        self.notes.append(("replay", self.device))


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    fake = Captures([])
    for name, part in {
        "device": fake.select,
        "Stream": FakeStream,
        "CUDAGraph": fake.CUDAGraph,
        "graph": fake.capture,
        "synchronize": fake.synchronize,
    }.items():
        monkeypatch.setattr(torch.cuda, name, part)
    return fake


def test_captures_on_the_device_of_the_images(captures, fake_cuda):
    calls = []
    function = CapturedFunction(lambda images: calls.append(captures.device) or images + 1)
    second = torch.device("cuda:1")
    with fake_cuda:
        for width in (4, 4, 8):
            assert function(torch.ones(1, 3, 4, width, device=second)).shape[-1] == width
    stream = captures.notes[0][2]
    assert stream.device == second
    captured = [("begin", second, stream, "thread_local"), ("end", second), ("synchronize", second)]
    replayed = ("replay", second)
    assert captures.notes == [*captured, replayed, replayed, *captured, replayed]
    assert set(calls) == {second} and captures.device == 0


def test_threads_capture_one_after_the_other(captures):
    functions = [CapturedFunction(lambda images: images + 1) for _ in range(8)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda function: function(torch.ones(1, 3, 4, 4)), functions))
    order = [note[0] for note in captures.notes if note[0] in ("begin", "end")]
    assert order == ["begin", "end"] * 8
    assert len({note[2] for note in captures.notes if note[0] == "begin"}) == 8  # streams


@pytest.mark.cuda
def test_threads_capture_while_others_allocate():
    models = [make_model("atss").cuda() for _ in range(2)]
    expected = [run(model) for model in models]
    graphed = [GraphedModel(model, "cuda_graph") for model in models]
    done = threading.Event()

    def allocate() -> None:
        while not done.is_set():
            torch.empty(32 * 2**20, device="cuda")
            torch.empty(1, device="cuda").fill_(1).item()

    with ThreadPoolExecutor(3) as threads:
        other = threads.submit(allocate)
        try:
            found = list(threads.map(run, graphed))
        finally:
            done.set()
    other.result()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in ("mask2former", "mask_rcnn", "atss", "upernet")),
        *((name, torch.bfloat16) for name in ("mask2former", "upernet")),
    ],
)
def test_captures(name, dtype):
    model = make_model(name).to("cuda", dtype)
    expected = run(model)
    graphed = GraphedModel(model, "cuda_graph")
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for _ in range(2):
        torch.testing.assert_close(run(graphed), expected, rtol=tolerance, atol=tolerance)
