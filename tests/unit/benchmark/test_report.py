"""Tables of measured models."""

from vit_adapter.benchmark.report import to_markdown, to_picture


def make_record(config: str = "coco/model", **changes: object) -> dict:
    record = {
        "config": config,
        "size": [512, 640],
        "batch_size": 1,
        "training": False,
        "precision": "float32",
        "mode": "eager",
        "plain_op": False,
        "parameters": 28_070_000,
        "flops": 157_200_000_000,
        "times_ms": [1.0],
        "latency_ms": {"p50": 51.26, "p90": 123.4, "p99": 1234.5},
        "images_per_second": 19.51,
        "memory_mib": 381.15,
    }
    return {**record, **changes}


RECORDS = [
    make_record(components_ms={"post-processing": 1.0, "roi_heads": 20.0, "ViT": 30.26}),
    make_record(precision="bf16", mode="compiled", latency_ms={"p50": 40, "p90": 41, "p99": 42}),
    make_record("coco/other", error="RuntimeError: a | b"),
]


def test_tables() -> None:
    assert to_markdown("a machine", RECORDS).splitlines() == [
        "a machine",
        "",
        "inference, 512x640, batch 1",
        "",
        "| model | parameters (M) | GFLOP | float32 (ms) | bf16, compiled (ms) |",
        "| --- | --- | --- | --- | --- |",
        "| coco/model | 28.1 | 157 | 51.3 | 40 |",
        "| coco/other | 28.1 | 157 | failed |  |",
        "",
        "| model | variant | images/s | p50 (ms) | p90 (ms) | p99 (ms) | memory (MiB) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| coco/model | float32 | 19.5 | 51.3 | 123 | 1234 | 381 |",
        "| coco/model | bf16, compiled | 19.5 | 40 | 41 | 42 | 381 |",
        "| coco/other | float32 | RuntimeError: a \\| b |  |  |  |  |",
        "",
        "| model | variant | ViT (ms) | roi_heads (ms) | post-processing (ms) |",
        "| --- | --- | --- | --- | --- |",
        "| coco/model | float32 | 30.3 | 20 | 1 |",
    ]


def test_operations_that_were_not_counted() -> None:
    assert "\n| coco/model | 28.1 | failed | 51.3 |\n" in to_markdown("", [make_record(flops=None)])


def test_rows_say_what_differs() -> None:
    table = to_markdown("", [make_record(training=True), make_record(training=True, batch_size=4)])
    assert "\ntraining steps with AdamW\n" in table
    assert "| coco/model, 512x640, batch 4 |" in table


def test_picture(tmp_path) -> None:
    to_picture("a machine", RECORDS, tmp_path / "picture.png")
    to_picture("a machine", RECORDS[2:], tmp_path / "failures.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert (tmp_path / "failures.png").exists()
