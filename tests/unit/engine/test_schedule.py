"""Schedules that depend on the size of the data: derived values, kept values, errors."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.config import LazyCall as L, LazyConfig
from omegaconf import DictConfig, OmegaConf
from torch.optim import AdamW
from torch.utils.data import IterableDataset

from vit_adapter.config.errors import UsageError
from vit_adapter.config.overrides import apply_overrides
from vit_adapter.engine.build import build_train_loader
from vit_adapter.engine.schedule import fit_schedule
from vit_adapter.solver import WarmupMultiStep, WarmupPoly, custom_keys_param_groups

COCO_1X = {
    "train.max_iter": 87_960,
    "train.eval_period": 7330,
    "train.checkpointer.period": 7330,
    "lr_multiplier.warmup_iters": 500,
    "optimizer.lr": 1e-4,
    "train.base_batch_size": 16,
}


class Stream(IterableDataset):
    """Data of unknown size."""

    def __iter__(self) -> Iterator[object]:
        return iter(())


def records(count: int) -> list[dict[str, int]] | Stream:
    """Stands in for the function that reads a data set, and counts its calls."""
    logging.getLogger(__name__).info("read")
    return [{"image_id": index} for index in range(count)] if count else Stream()


def loader(**options: object) -> dict[str, object]:
    return options


def make_config(images: int = 205, poly: bool = False) -> DictConfig:
    """The numbers of COCO 1x, or those of a semantic recipe."""
    steps = L(WarmupMultiStep)(
        max_iter="${train.max_iter}", epochs=12, milestones=[8, 11], warmup_iters=500
    )
    line = L(WarmupPoly)(max_iter="${train.max_iter}")  # its warm-up is the default of the class
    period = 8000 if poly else 7330
    return OmegaConf.create(
        {
            "dataloader": {
                "train": L(loader)(dataset=L(records)(count=images), total_batch_size=16),
                "evaluator": L(loader)(),
            },
            "lr_multiplier": line if poly else steps,
            "optimizer": L(AdamW)(
                params=L(custom_keys_param_groups)(base_lr="${..lr}", weight_decay=0.0), lr=1e-4
            ),
            "train": {
                "max_iter": 80_000 if poly else 87_960,
                "epochs": None,
                "auto_scale_lr": False,
                "base_batch_size": 16,
                "eval_period": period,
                "checkpointer": {"period": period},
            },
        },
        flags={"allow_objects": True},
    )


def fit(cfg: DictConfig, *overrides: str) -> DictConfig:
    fit_schedule(apply_overrides(cfg, overrides), overrides)
    return cfg


def values(cfg: DictConfig) -> dict[str, float]:
    return {key: OmegaConf.select(cfg, key) for key in COCO_1X}


def test_a_config_keeps_its_numbers_and_reads_no_data(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cfg = make_config()
    assert (
        fit_schedule(
            apply_overrides(cfg, ["dataloader.train.total_batch_size=2"]),
            ["dataloader.train.total_batch_size=2"],
        )
        is None
    )
    assert values(cfg) == COCO_1X
    assert "read" not in caplog.messages
    assert caplog.messages[-1] == (
        "Schedule: 87,960 iterations; evaluation and checkpoint every 7,330; lr 0.0001; milestones "
        "58,640 and 80,630; warm-up 500 iterations."
    )


def test_twelve_epochs_of_coco_are_its_published_schedule() -> None:
    assert values(fit(make_config(117_266), "train.epochs=12")) == COCO_1X


def test_everything_follows_from_epochs_and_batch_size(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cfg = fit(
        make_config(205),
        "train.epochs=12",
        "train.auto_scale_lr=True",
        "dataloader.train.total_batch_size=2",
    )
    assert values(cfg) == {
        "train.max_iter": 1236,
        "train.eval_period": 103,
        "train.checkpointer.period": 103,
        "lr_multiplier.warmup_iters": 123,
        "optimizer.lr": 1e-4 / 8,
        "train.base_batch_size": 2,
    }
    assert cfg.optimizer.params.base_lr == 1e-4 / 8
    assert caplog.messages[-1] == (
        "Schedule: 12 epochs of 205 images at batch 2 = 1,236 iterations; evaluation and "
        "checkpoint every 103; lr 0.0001 x 2/16 = 1.25e-05; milestones 824 and 1,133; warm-up 123 "
        "iterations."
    )
    assert caplog.messages.count("read") == 1


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "max_iter", "period", "warmup"),
    [
        (205, 16, "2", 26, 13, 2),
        (205, 205, "3", 3, 1, 0),
        (3, 16, "12", 12, 1, 1),  # fewer images than a batch: an epoch is one iteration
        (160, 16, "0.25", 2, 10, 0),  # round(2.5) is 2; evaluated at the end
        (1, 1, "1e-3", 1, 1, 0),
        (117_266, 16, "36", 263_880, 7330, 500),
        (117_266, 8, "12.0", 175_908, 14_659, 500),
    ],
)
def test_lengths(
    images: int, batch: int, epochs: str, max_iter: int, period: int, warmup: int
) -> None:
    cfg = fit(
        make_config(images), f"train.epochs={epochs}", f"dataloader.train.total_batch_size={batch}"
    )
    expected = {
        "train.max_iter": max_iter,
        "train.eval_period": period,
        "train.checkpointer.period": period,
        "lr_multiplier.warmup_iters": warmup,
    }
    assert values(cfg) == COCO_1X | expected
    assert cfg.train.epochs is None


@pytest.mark.parametrize(
    ("max_iter", "period", "warmup"),
    [
        ("1000", 100, 100),  # a tenth is longer than an epoch of 13 iterations
        ("50", 13, 5),  # an epoch is longer than a tenth
        ("5", 13, 0),
        ("200_000", 7330, 500),  # a longer run keeps what is in the config
    ],
)
def test_an_overridden_max_iter(max_iter: str, period: int, warmup: int) -> None:
    found = values(fit(make_config(205), f"train.max_iter={max_iter}"))
    assert found == COCO_1X | {
        "train.max_iter": int(max_iter),
        "train.eval_period": period,
        "train.checkpointer.period": period,
        "lr_multiplier.warmup_iters": warmup,
    }


def test_max_iter_keeps_an_evaluation_at_the_end() -> None:
    cfg = make_config()
    cfg.train.eval_period = 0
    assert fit(cfg, "train.max_iter=1000").train.eval_period == 0
    assert fit(cfg, "train.epochs=2").train.eval_period == 13


def test_max_iter_with_data_of_unknown_size() -> None:
    found = values(fit(make_config(images=0), "train.max_iter=1000"))
    assert found == COCO_1X | {"train.max_iter": 1000, "lr_multiplier.warmup_iters": 100}
    for key in ("dataset", "total_batch_size"):  # custom loaders
        cfg = make_config()
        del cfg.dataloader.train[key]
        assert values(fit(cfg, "train.max_iter=1000")) == found


@pytest.mark.parametrize("length", ["train.epochs=2", "train.max_iter=26"])
def test_other_overrides_stay(length: str) -> None:
    found = values(
        fit(
            make_config(),
            length,
            "train.eval_period=0",
            "train.checkpointer.period=7",
            "lr_multiplier.warmup_iters=9",
        )
    )
    assert found == COCO_1X | {
        "train.max_iter": 26,
        "train.eval_period": 0,
        "train.checkpointer.period": 7,
        "lr_multiplier.warmup_iters": 9,
    }
    whole = "train.checkpointer={period:5,max_to_keep:1}"
    assert fit(make_config(), length, whole).train.checkpointer.period == 5


def test_overridden_milestones_are_epochs_of_this_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fit(make_config(160), "train.epochs=24", "lr_multiplier.milestones=[16,22]")
    assert "milestones 160 and 220" in caplog.messages[-1]
    in_its_unit = ["lr_multiplier.milestones=[9]", "lr_multiplier.epochs=12"]
    fit(make_config(160), "train.epochs=6", *in_its_unit)
    assert "milestones 45" in caplog.messages[-1]


def test_semantic_schedule(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cfg = fit(make_config(367, poly=True), "train.epochs=10", "dataloader.train.total_batch_size=4")
    assert (cfg.train.max_iter, cfg.lr_multiplier.warmup_iters) == (920, 92)
    assert caplog.messages[-1] == (
        "Schedule: 10 epochs of 367 images at batch 4 = 920 iterations; evaluation and checkpoint "
        "every 92; lr 0.0001; warm-up 92 iterations."
    )


def test_any_learning_rate_is_scaled() -> None:
    cfg = fit(
        make_config(),
        "train.auto_scale_lr=True",
        "optimizer.lr=2e-4",
        "dataloader.train.total_batch_size=24",
    )
    assert cfg.optimizer.lr == pytest.approx(3e-4, rel=1e-12)
    assert values(cfg) | {"optimizer.lr": 1e-4, "train.base_batch_size": 16} == COCO_1X


def test_a_saved_config_derives_nothing_twice(tmp_path: Path) -> None:
    first = fit(
        make_config(),
        "train.epochs=2",
        "train.auto_scale_lr=True",
        "train.eval_period=9",
        "dataloader.train.total_batch_size=3",
    )
    LazyConfig.save(first, str(tmp_path / "config.yaml"))

    def again(*overrides: str) -> DictConfig:
        return fit(LazyConfig.load(str(tmp_path / "config.yaml")), *overrides)

    for overrides in ([], ["train.auto_scale_lr=True"], ["train.epochs=2", "train.eval_period=9"]):
        LazyConfig.save(again(*overrides), str(tmp_path / "again.yaml"))
        assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()
    # A change of the batch size starts from the size that the saved rate is for.
    larger = again("dataloader.train.total_batch_size=6")
    assert larger.optimizer.lr == pytest.approx(2 * first.optimizer.lr, rel=1e-12)
    assert larger.train.max_iter == first.train.max_iter


def test_an_override_of_max_iter_replaces_epochs_of_a_config_file() -> None:
    cfg = make_config()
    cfg.train.epochs = 100
    assert fit(cfg, "train.max_iter=26").train.max_iter == 26


def test_a_config_without_the_new_keys() -> None:
    cfg = make_config()
    for key in ("epochs", "auto_scale_lr", "base_batch_size"):
        del cfg.train[key]
    assert fit(cfg, "+train.epochs=2").train.max_iter == 26
    with pytest.raises(UsageError, match="train.base_batch_size=None, expected a whole number"):
        fit(cfg, "+train.auto_scale_lr=True")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        *[
            ([f"train.epochs={value}"], "train.epochs=.* is not valid; give a number")
            for value in ("0", "-1", "twelve", "'12'", "True", "inf", "nan", "[1,2]")
        ],
        (["train.epochs=2", "train.max_iter=5"], "train.epochs=2 and train.max_iter=5 both set"),
        *[
            ([f"train.max_iter={value}"], "train.max_iter=.*whole number")
            for value in ("0", "-5", "many", "1.5", "True", "null", "inf", "nan")
        ],
        (["train.epochs=1", "dataloader.train.total_batch_size=0"], "total_batch_size=0, expected"),
        (["train.auto_scale_lr=yes"], "train.auto_scale_lr=yes.* must be true or false"),
        (["train.auto_scale_lr=True", "optimizer.lr=high"], "optimizer.lr=high.* must be a number"),
        *[
            ([f"optimizer.lr={value}"], rf"optimizer\.lr={found}, expected a number above 0")
            for value, found in (("0", "0"), ("-1", "-1"), ("null", "None"), ("inf", "inf"))
        ],
        (["train.auto_scale_lr=True", "train.base_batch_size=0"], "base_batch_size=0, expected"),
        (
            [
                "train.auto_scale_lr=True",
                "dataloader.train.total_batch_size=2",
                "optimizer.params.base_lr=1e-4",
            ],
            "optimizer.params.base_lr does not depend on it",
        ),
        (
            ["train.epochs=2", "lr_multiplier.milestones=[8,11]"],
            r"does not give a schedule: milestones must increase between 0 and epochs=2",
        ),
        *[
            ([f"lr_multiplier.milestones={value}"], "lr_multiplier does not give a schedule")
            for value in ("8", "null")
        ],
        (["train.epochs=2", "dataloader.train.dataset.count=0"], "needs the number of images"),
    ],
)
def test_refuses(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit(make_config(), *overrides)


def test_the_loader_reuses_data_that_were_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cfg = apply_overrides(make_config(5), ["train.epochs=1"])
    dataset = fit_schedule(cfg, ["train.epochs=1"])
    options = build_train_loader(cfg, dataset)
    assert options == {"dataset": dataset, "total_batch_size": 16}
    assert [dataset[index]["image_id"] for index in range(len(dataset))] == list(range(5))
    assert caplog.messages.count("read") == 1
    assert len(build_train_loader(cfg)["dataset"]) == 5
    assert caplog.messages.count("read") == 2
