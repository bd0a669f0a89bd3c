"""The CPU kernels in forked processes and in several threads at once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vit_adapter.ops import ms_deform_attn
from vit_adapter.ops.extension import has_kernel

pytestmark = pytest.mark.skipif(not has_kernel("cpu"), reason="no CPU kernel is built here")

# Run one after another in a process of their own: a hang can be stopped there, and pytest itself is
# never forked.
SCRIPT = """
import os, sys
import torch
from vit_adapter.ops import ms_deform_attn

torch.set_num_threads(2)
shapes = [(32, 32), (16, 16)]
value = torch.randn(1, 1280, 6, 32)
locations = torch.rand(1, 600, 6, 2, 4, 2)
weights = torch.rand(1, 600, 6, 2, 4)
op = torch.ops.vit_adapter.ms_deform_attn.default
backward = torch.ops.vit_adapter.ms_deform_attn_backward.default
flat = [32, 32, 16, 16]
strided = value.transpose(-1, -2).contiguous().transpose(-1, -2)  # copied inside, by threads


def compute():
    output = op(strided, flat, locations, weights)
    return output, *backward(output, strided, flat, locations, weights)


expected = compute()
"""

FORK = """
child = os.fork()
if child == 0:
    actual, threads = compute(), torch.get_num_threads()
    torch.set_num_threads(1)  # PyTorch itself would hang in the comparison
    os._exit(0 if threads == 2 and all(map(torch.equal, actual, expected)) else 3)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert all(map(torch.equal, compute(), expected))  # and the parent still computes
"""

WORKERS = """
from torch.utils.data import DataLoader, Dataset

class Outputs(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return ms_deform_attn(value, shapes, locations, weights)[0]

for batch in DataLoader(Outputs(), batch_size=2, num_workers=2, multiprocessing_context="fork"):
    for output in batch:
        assert torch.equal(output, expected[0][0])
"""

GRADIENTS = """
leaf = value.requires_grad_()
grad_output = torch.ones_like(expected[0])


def differentiate():
    output = ms_deform_attn(leaf, shapes, locations, weights)
    return torch.autograd.grad(output, leaf, grad_output)


differentiate()
child = os.fork()
if child == 0:
    try:
        differentiate()
    except RuntimeError as error:  # PyTorch's own rule if it has threads for devices
        os._exit(0 if "fork" in str(error) else 4)
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_process_forked_after_use_can_compute():
    """OpenMP's threads do not survive a fork: without precautions the child would wait forever."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT + FORK + WORKERS + GRADIENTS],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr


def test_threads_can_call_forward_and_backward_at_once(sample_inputs, output_and_gradients):
    inputs = sample_inputs(dim=32, queries=50).to(torch.float32)
    grad_output = torch.randn(2, 50, 96)
    expected = output_and_gradients(ms_deform_attn, inputs, grad_output)

    def call(_: int) -> bool:
        actual = output_and_gradients(ms_deform_attn, inputs, grad_output)
        return all(map(torch.equal, actual, expected))

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(call, range(30)))
