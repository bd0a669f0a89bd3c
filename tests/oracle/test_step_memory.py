"""The counted memory of a training step, compared with the resident memory of a process."""

import json
import os
import subprocess
import sys

import pytest

# Takes steps on equal random choices; prints the memory of one, measured and counted, in bytes.
PROGRAM = """
import ctypes, gc, json, sys
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from vit_adapter import model_zoo
from vit_adapter.engine.dry_run.memory import count_step
from vit_adapter.engine.precision import Precision

torch.set_num_threads(1)
cfg = model_zoo.get_config("quick_start/mask_rcnn_vit_adapter_tiny_scratch")
model = instantiate(cfg.model).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9)
size = (256, 256)
mask = torch.zeros(1, *size, dtype=torch.bool)
mask[:, 50:150, 50:150] = True
box = Boxes(torch.tensor([[50.0, 50.0, 150.0, 150.0]]))
target = Instances(size, gt_boxes=box, gt_classes=torch.tensor([1]), gt_masks=BitMasks(mask))
image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
batch = [dict(image=image, height=256, width=256, instances=target)] * 4


def step():
    torch.manual_seed(1)
    sum(model(batch).values()).backward()
    optimizer.step()
    optimizer.zero_grad()


def resident(key):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(key)]
    return 1024 * int(line.split()[1])


with EventStorage():
    step()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")  # the peak starts anew
    before = resident("VmRSS")
    step()
    measured = resident("VmHWM") - before
    torch.manual_seed(1)
    precision = Precision(enabled=False, dtype="bfloat16", device_type="cpu")
    cost = count_step(model, optimizer, precision, batch)
print(json.dumps([measured, cost.peak, cost.saved]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux, to measure memory"
)
def test_counted_memory_is_resident() -> None:
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}  # freed memory goes back
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **malloc, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    measured, counted, saved = json.loads(result.stdout.splitlines()[-1])
    assert counted == pytest.approx(measured, rel=0.15)
    assert saved < counted
