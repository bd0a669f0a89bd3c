"""Train the same models with ``train.parallel=ddp`` and with ``fsdp``, and compare everything.

``test_sharding.py`` starts it with the names of functions below.
"""

import copy
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from detectron2.config import LazyCall
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import Tensor, nn

from vit_adapter import TimmViT
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.files import load_checkpoint_file, load_trainer_state
from vit_adapter.config.loading import load_config
from vit_adapter.config.tasks import set_num_classes
from vit_adapter.engine import parallel
from vit_adapter.engine.build import build_optimizer, build_seeded_model
from vit_adapter.engine.ema import WeightAverage
from vit_adapter.engine.freezing import freeze_parameters

SIDE = 64
MASK_RCNN = (
    "quick_start/mask_rcnn_vit_adapter_shapes",
    "model.backbone.bottom_up.vit.depth=4",
    "model.backbone.bottom_up.interaction_indexes=[[0,0],[1,1],[2,2],[3,3]]",
    "model.backbone.bottom_up.vit.embed_dim=48",
    "model.backbone.bottom_up.vit.use_checkpoint=True",
    "model.backbone.bottom_up.use_checkpoint=True",
    "model.backbone.out_channels=32",
    "model.roi_heads.box_head.fc_dims=[32,32]",
    "model.roi_heads.mask_head.conv_dims=[32,32]",
    "model.proposal_generator.pre_nms_topk=[100,50]",
    "model.proposal_generator.post_nms_topk=[50,20]",
)
MASK2FORMER = (
    "quick_start/mask2former_vit_adapter_tiny_scratch",
    "model.backbone.vit.depth=4",
    "model.backbone.interaction_indexes=[[0,0],[1,1],[2,2],[3,3]]",
    "model.head.transformer_decoder.num_layers=2",
    "model.backbone.vit.embed_dim=96",
    "model.head.transformer_decoder.num_queries=8",
    "model.criterion.num_points=32",
)
SEMANTIC_FPN = (
    "quick_start/semantic_fpn_vit_adapter_tiny_scratch",
    "model.backbone.bottom_up.vit.depth=4",
    "model.backbone.bottom_up.interaction_indexes=[[0,0],[1,1],[2,2],[3,3]]",
    "model.backbone.bottom_up.vit.embed_dim=96",
    "model.backbone.bottom_up.vit.use_checkpoint=True",
    "model.backbone.out_channels=32",
    "model.sem_seg_head.conv_dims=32",
)


def read_config(overrides: Sequence[str]) -> DictConfig:
    cfg = load_config(overrides[0], [*overrides[1:], "train.device=cpu", "train.seed=3"])
    set_num_classes(cfg, 3)
    return cfg


def make_batch(number: int) -> list[dict[str, object]]:
    """Two images for this process, with labels for every kind of model."""
    generator = torch.Generator().manual_seed(100 * number + comm.get_rank())
    batch = []
    for _ in range(2):
        image = torch.randint(0, 256, (3, SIDE, SIDE), generator=generator)
        labels = torch.randint(0, 3, (4, 4), generator=generator)
        corners = torch.randint(0, 32, (2, 2), generator=generator).float()
        instances = Instances((SIDE, SIDE), gt_classes=torch.tensor([0, 2]))
        instances.gt_boxes = Boxes(torch.cat([corners, corners + 24], 1))
        masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
        for mask, (left, top) in zip(masks, corners.int().tolist(), strict=True):
            mask[top : top + 24, left : left + 24] = True
        instances.gt_masks = BitMasks(masks)
        batch.append(
            {
                "image": image.byte(),
                "sem_seg": labels.repeat_interleave(16, 0).repeat_interleave(16, 1),
                "instances": instances,
                "height": SIDE,
                "width": SIDE,
            }
        )
    return batch


class Run:
    """A training run on the batches above; ``curve`` has gradient norm and losses of each step."""

    def __init__(self, cfg: DictConfig, way: str, *, dtype: torch.dtype = torch.float32) -> None:
        cfg.train.parallel = way
        model = build_seeded_model(cfg).to(dtype)
        if comm.get_rank():  # the weights of the main process count
            nn.init.zeros_(next(model.parameters()))
        freeze_parameters(model, cfg.train.freeze)
        self.model = parallel.parallelise(cfg, model).train()
        self.optimizer = build_optimizer(cfg, self.model)
        self.average = WeightAverage(self.model, 0.5)
        self.average.follow(self.optimizer)
        self.curve: list[list[float]] = []

    def train(self, steps: int, *, accumulate: int = 1, bfloat16: bool = False) -> "Run":
        for step in range(steps):
            torch.manual_seed(10 * step + comm.get_rank())
            for part in range(accumulate):
                last = part == accumulate - 1
                with parallel.gradient_exchange(self.model, enabled=last):
                    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                        losses = self.model(make_batch(step * accumulate + part))
                    sum(losses.values()).backward()
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
            norm = parallel.whole_tensor(norm)
            self.curve.append([norm.item(), *(loss.item() for loss in losses.values())])
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self

    def pieces(self) -> dict[str, Mapping]:
        model = parallel.unwrap(self.model)
        return {
            "model": model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
        }

    def state(self) -> dict[str, Mapping]:
        return parallel.gather_state(self.pieces())

    state_dict = pieces  # as a trainer


def check_same(first: Run, second: Run, *, losses: float, weights: float, norms: float) -> None:
    assert not parallel.is_sharded(first.model) and parallel.is_sharded(second.model)
    one, two = torch.tensor(first.curve), torch.tensor(second.curve)
    torch.testing.assert_close(one[:, 0], two[:, 0], rtol=norms, atol=0)
    torch.testing.assert_close(one[:, 1:], two[:, 1:], rtol=0, atol=losses)
    states = first.state(), second.state()
    if comm.get_rank():
        return
    for part in ("model", "average"):
        one, two = (state[part] for state in states)
        assert list(one) == list(two)
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=0, atol=weights, msg=name)
    assert states[0]["model"]._metadata == states[1]["model"]._metadata
    one, two = (state["optimizer"] for state in states)
    assert one["param_groups"] == two["param_groups"] and list(one["state"]) == list(two["state"])
    for key, entries in one["state"].items():
        assert list(entries) == list(two["state"][key])
        for name, value in entries.items():
            assert type(value) is Tensor
            torch.testing.assert_close(value, two["state"][key][name], rtol=0, atol=weights)


def float32() -> None:
    """Five steps of a detector and a segmentor, each with its own parameter groups.

    The learning rate is that of a warm-up: Adam turns the rounding of tiny gradients into steps.
    """
    for overrides in (MASK_RCNN, MASK2FORMER):
        cfgs = [read_config([*overrides, "optimizer.lr=1e-6"]) for _ in range(2)]
        first, second = (
            Run(cfg, way).train(5) for cfg, way in zip(cfgs, ("ddp", "fsdp"), strict=True)
        )
        check_same(first, second, losses=1e-5, weights=1e-3, norms=1e-3)


def float64() -> None:
    """What only some configs have, where rounding hides no mistake."""
    vit = "model.backbone.bottom_up"
    frozen = ["train.freeze=[patch_embed,pos_embed,blocks.0,blocks.1]"]
    lora = [f"{vit}.mode=frozen", f"{vit}.vit.lora_rank=2"]
    for extra, accumulate in ((frozen, 1), (lora, 1), ([], 2)):
        cfgs = [read_config([*SEMANTIC_FPN, *extra]) for _ in range(2)]
        if not extra:  # blocks in windows, which are run part by part
            for cfg in cfgs:
                cfg.model.backbone.bottom_up.vit = LazyCall(TimmViT)(
                    name="eva02_tiny_patch14_224",
                    embed_dim=192,
                    depth=cfg.model.backbone.bottom_up.vit.depth,
                    drop_path_rate=0.0,
                    window_sizes=[2, 0] * (cfg.model.backbone.bottom_up.vit.depth // 2),
                    use_checkpoint=True,
                )
        first, second = (
            Run(cfg, way, dtype=torch.float64).train(2, accumulate=accumulate)
            for cfg, way in zip(cfgs, ("ddp", "fsdp"), strict=True)
        )
        check_same(first, second, losses=1e-6, weights=1e-8, norms=1e-6)


def bfloat16() -> None:
    """Autocast rounds the same numbers, so that even these losses are equal at first."""
    runs = (Run(read_config(MASK2FORMER), way).train(1, bfloat16=True) for way in ("ddp", "fsdp"))
    check_same(*runs, losses=1e-5, weights=1e-2, norms=1e-2)


def interchange() -> None:
    """Each continues from the state of the other; memory is divided; one process can evaluate."""
    ddp, fsdp = (Run(read_config(SEMANTIC_FPN), way).train(1) for way in ("ddp", "fsdp"))
    state = comm.all_gather(ddp.state())[0]
    parallel.load_optimizer_state(fsdp.optimizer, state["optimizer"])
    fsdp.average.load_state_dict(state["average"])
    check_same(ddp, fsdp, losses=1e-5, weights=1e-3, norms=1e-3)
    own = sum(value.to_local().numel() for value in fsdp.model.parameters())
    total = sum(value.numel() for value in ddp.model.parameters())
    assert sum(comm.all_gather(own)) == total and own < 1.2 * total / comm.get_world_size()
    entries = fsdp.optimizer.state.values()
    assert sum(entry["exp_avg"].to_local().numel() for entry in entries) == own
    with ddp.average.applied(), fsdp.average.applied(), parallel.whole_model(fsdp.model) as model:
        if comm.get_rank() == 0:  # would wait for the others outside the context
            with torch.no_grad():
                result, expected = (
                    each.eval()(make_batch(0))[0]["sem_seg"]
                    for each in (model, parallel.unwrap(ddp.model))
                )
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-3)
    before = [value.to_local().numel() for value in fsdp.model.parameters()]
    ddp.model.train(), fsdp.model.train()
    check_same(ddp.train(1), fsdp.train(1), losses=1e-5, weights=1e-2, norms=1e-2)
    assert before == [value.to_local().numel() for value in fsdp.model.parameters()]


def folders() -> None:
    """A checkpoint that all processes write is read by one, while training goes on."""
    run = Run(read_config(SEMANTIC_FPN), "fsdp").train(1)
    expected = copy.deepcopy(run.state())
    root = Path(comm.all_gather(tempfile.mkdtemp())[0])
    checkpointer = Checkpointer(parallel.unwrap(run.model), str(root), trainer=run, sharded=True)
    checkpointer.save("model_0000000", iteration=0, generator=torch.get_rng_state())
    run.train(1)  # changes the weights while they are written
    checkpointer.wait()
    if comm.get_rank() == 0:
        assert (root / "last_checkpoint").read_text() == "model_0000000.sharded"
        names = {path.name for path in root.iterdir()}
        assert names == {"last_checkpoint", "model_0000000.sharded"}
        folder = root / "model_0000000.sharded"
        assert len(list(folder.glob("*.safetensors"))) == comm.get_world_size()
        stored = load_checkpoint_file(folder)
        for name, value in expected["model"].items():
            torch.testing.assert_close(stored["model"][name], value, rtol=0, atol=0, msg=name)
        assert stored["model"]._metadata == expected["model"]._metadata
        assert stored["generator"].dtype is torch.uint8
        load_trainer_state(folder, stored)
        state = stored["trainer"]["optimizer"]
        for key, entries in expected["optimizer"]["state"].items():
            for name, value in entries.items():
                torch.testing.assert_close(state["state"][key][name], value, rtol=0, atol=0)
    comm.synchronize()
    if comm.get_rank() == 0:
        shutil.rmtree(root)


def work(names: Sequence[str]) -> None:
    warnings.simplefilter("ignore")
    for name in names:
        with EventStorage():
            globals()[name]()
