"""The whole backbone as one graph: torch.compile, and CUDA graphs."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from vit_adapter import PlainViT, ViTAdapter


def make_adapter() -> ViTAdapter:
    """A small adapter with windowed and global attention and random weights."""
    vit = PlainViT(img_size=64, embed_dim=12, depth=2, num_heads=2, window_sizes=[3, 0])
    adapter = ViTAdapter(
        vit,
        interaction_indexes=[(0, 1)],
        conv_inplane=4,
        deform_num_heads=2,
        use_extra_extractor=False,
        norm="BN",
    )
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.3)
    return adapter


def gradients(model: ViTAdapter, images: Tensor) -> dict[str, Tensor]:
    """Gradients of a loss in which every element has its own weight."""
    outputs = model(images).values()
    loss = sum((o * torch.arange(o.numel()).view(o.shape).sin()).sum() for o in outputs)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.slow
def test_training_compiles_into_one_graph() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    adapter = make_adapter().train()
    images = torch.randn(2, 3, 64, 96)
    expected = gradients(adapter, images)
    adapter.compile(fullgraph=True, backend=counter)
    torch.testing.assert_close(gradients(adapter, images), expected, atol=1e-4, rtol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_inference_compiles_into_one_graph_for_each_size() -> None:
    counter = CompileCounterWithBackend("eager")
    adapter = make_adapter().eval()
    compiled = torch.compile(adapter, fullgraph=True, backend=counter)
    with torch.no_grad():
        for size in ((64, 96), (70, 90), (64, 96)):
            images = torch.randn(1, 3, *size)
            expected = adapter(images)
            torch.testing.assert_close(compiled(images), expected, atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 2


@pytest.mark.cuda
def test_inference_is_captured_in_a_cuda_graph() -> None:
    adapter = make_adapter().eval().cuda()
    images = torch.randn(1, 3, 64, 96, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad():
        with torch.cuda.stream(side):
            adapter(images)  # load kernels and make constants before the capture
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = adapter(images)
        images.copy_(torch.randn_like(images))
        graph.replay()
        torch.testing.assert_close(outputs, adapter(images), atol=1e-5, rtol=1e-5)
