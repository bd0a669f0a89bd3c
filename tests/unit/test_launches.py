"""How many kernels a GPU would launch for one image, counted on fake CUDA tensors.

At batch 1 a GPU waits for launches more than it computes. The count depends neither on the size of
the image nor on the widths of the model.
"""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from fake_cuda import Launches, move_to_fake_cuda
from omegaconf import DictConfig
from torch import Tensor

from vit_adapter import model_zoo
from vit_adapter.layers import derived, pyramid


@pytest.fixture
def _as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets caches keep fake tensors, and makes attention one kernel, which it is not on a fake."""

    def attention(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        attended = torch.relu(query.transpose(1, 2))  # (B, N, M, D), as CUDA kernels return it
        return attended.transpose(1, 2)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    for module in (derived, pyramid):
        monkeypatch.setattr(module, "holds_numbers", lambda tensor: True)
    monkeypatch.setattr(pyramid, "_constants", {})


def narrow(model: DictConfig) -> DictConfig:
    """The same layers, 96 channels wide: they are built in less time."""
    model.backbone.vit.embed_dim, model.backbone.deform_num_heads = 96, 4
    if "num_heads" in model.backbone.vit:
        model.backbone.vit.num_heads = 4
    head = model.head
    head.pixel_decoder.embed_dim, head.pixel_decoder.num_heads = 96, 4
    head.pixel_decoder.ffn_dim = head.transformer_decoder.ffn_dim = 96
    return model


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(
    ("backbone", "most"), [("small_dinov2_512_40k", 700), ("large_beit_640_160k", 850)]
)
def test_mask2former(backbone, most, fake_cuda, _as_on_cuda):
    cfg = model_zoo.get_config(f"ade20k/mask2former_vit_adapter_{backbone}")
    model = instantiate(narrow(cfg.model)).eval().bfloat16()
    with fake_cuda, torch.no_grad():
        model = move_to_fake_cuda(model)
        images = torch.rand(1, 3, 64, 64, device="cuda")
        for _ in range(2):  # the first pass fills the caches
            with Launches() as launches:
                normalised = (images - model.pixel_mean) / model.pixel_std
                model.head(model.backbone(normalised))
    assert most - 100 < launches.count <= most


def test_what_is_counted(fake_cuda):
    with fake_cuda, Launches() as launches:
        weights = torch.empty(4, 3, device="cuda")
        (weights.t()[1:] + 1).unsqueeze(0).detach()
        torch.ones(3) + 1  # on the CPU
    assert launches.count == 1
