"""Converting needs little memory of its own, whatever the size of the files."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dino_keys import DINOV2, small
from torch import Tensor

import vit_adapter

TOOL = Path(vit_adapter.__file__).parents[1] / "tools" / "convert_checkpoint.py"

# Runs the tool and prints the largest growth of the memory that belongs to no file, in MB.
MEASURE = """
import re, runpy, sys, threading
tool = runpy.run_path(sys.argv[1])

def anonymous():
    with open("/proc/self/status") as status:
        return int(re.search(r"RssAnon:\\s+(\\d+) kB", status.read())[1]) / 1024

def sample():
    while not done.wait(0.002):
        sizes.append(anonymous())

done, sizes = threading.Event(), [anonymous()]
thread = threading.Thread(target=sample)
thread.start()
code = tool["main"](sys.argv[2:])
done.set()
thread.join()
print("grown by", max(sizes) - sizes[0])
sys.exit(code)
"""


def large() -> dict[str, Tensor]:
    """DINOv2's segmentor with 192 MB in its blocks, two thirds of it in pairs to be joined."""
    weights = small(DINOV2)
    for index in range(8):
        for name, shape in {"w1": (2048, 1024), "w2": (2048, 1024), "w3": (1024, 2048)}.items():
            weights[f"backbone.blocks.{index}.mlp.{name}.weight"] = torch.ones(shape)
    return weights


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's figures")
@pytest.mark.parametrize("target", ["ours.pth", "ours.safetensors"])
def test_converting_holds_no_copies(tmp_path: Path, target: str) -> None:
    torch.save(large(), tmp_path / "theirs.pth")
    assert (tmp_path / "theirs.pth").stat().st_size > 192 * 2**20
    for arguments in (["theirs.pth", target], ["--reverse", target, "back.pth"]):
        command = [sys.executable, "-c", MEASURE, str(TOOL), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        grown = float(done.stdout.rpartition("grown by ")[2])
        assert grown < 64, f"{' '.join(arguments)}: {grown:.0f} MB"
    back = torch.load(tmp_path / "back.pth", mmap=True)["state_dict"]
    assert all(torch.equal(back[name], tensor) for name, tensor in large().items())
