"""The core of each kind of model: one graph, nothing copied to the device, the same results."""

import pytest
import torch
from fake_cuda import move_to_fake_cuda
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vit_adapter import model_zoo
from vit_adapter.config.model import build_model
from vit_adapter.test_time.core import Core, find_core

MODELS = ["upernet", "mask2former", "mask_rcnn", "atss", "sparse_rcnn"]


def make_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    cfg = model_zoo.get_config(f"quick_start/{name}_vit_adapter_tiny_scratch")
    cfg.train.device = "cpu"
    bottom_up = cfg.model.backbone.get("bottom_up", cfg.model.backbone)
    bottom_up.vit.depth, bottom_up.interaction_indexes = 2, [[0, 0], [1, 1]]
    bottom_up.vit.window_sizes, bottom_up.use_extra_extractor = [], False
    if name == "mask2former":
        cfg.model.head.pixel_decoder.num_layers = 1
        cfg.model.head.transformer_decoder.num_layers = 4
    if bottom_up.vit_feature_fusion == "per_interaction":
        bottom_up.vit_feature_fusion = "last"
    return build_model(cfg).eval()


def make_core(name: str) -> Core:
    return find_core(make_model(name))


class NoCopies(TorchDispatchMode):
    """Fails where an operation on CUDA reads a tensor on the CPU."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        read, made = tree_leaves((args, kwargs)), tree_leaves(result)
        if any(isinstance(x, Tensor) and x.is_cuda for x in made):
            assert all(x.is_cuda for x in read if isinstance(x, Tensor)), op
        return result


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_copied_to_the_device(name, fake_cuda):
    model = make_model(name)
    with fake_cuda:  # fake constants are not kept: they are made anew, as in a compiled graph
        core = find_core(move_to_fake_cuda(model))
        images = torch.randn(1, 3, 64, 96, device="cuda")
        with NoCopies():
            outputs = core(images)
    assert {output.device.type for output in outputs} == {"cuda"}


def test_copies_are_found(fake_cuda):
    with fake_cuda, NoCopies(), pytest.raises(AssertionError, match="_to_copy"):
        torch.tensor([1.0, 2.0], device="cuda")


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["upernet", "mask2former", "mask_rcnn"])
def test_is_one_graph(name):
    torch.compiler.reset()
    core, images = make_core(name), torch.randn(1, 3, 64, 96)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(core.__call__, fullgraph=True, dynamic=False, backend=counter)
    torch.testing.assert_close(compiled(images), core(images), atol=1e-4, rtol=1e-4)
    assert counter.frame_count == 1


def test_a_model_without_a_core():
    with pytest.raises(ValueError, match="Linear has no core"):
        find_core(nn.Linear(2, 2))
