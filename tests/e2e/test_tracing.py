"""Deployment with TorchScript: a traced detector gives the same results as the model."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.export import TracingAdapter

from vit_adapter import model_zoo

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated"),
]


@torch.no_grad()
def test_mask_rcnn(tmp_path) -> None:
    torch.manual_seed(0)
    config = model_zoo.get_config("quick_start/mask_rcnn_vit_adapter_shapes")
    config.model.roi_heads.box_predictor.test_topk_per_image = 10
    model = instantiate(config.model).eval()
    first, second = torch.rand(2, 3, 64, 96) * 255
    adapter = TracingAdapter(
        model,
        [{"image": first}],
        lambda model, inputs: [{"instances": model.inference(inputs, do_postprocess=False)[0]}],
    )
    torch.jit.trace(adapter, (first,), check_trace=False).save(tmp_path / "model.ts")
    traced = torch.jit.load(tmp_path / "model.ts")
    for image in (first, second, second[:, :61, :91]):  # the last is padded to the same size
        torch.testing.assert_close(traced(image), adapter(image), rtol=1e-3, atol=1e-3)
    with pytest.raises(RuntimeError, match="unflatten: Provided sizes"):
        traced(second.mT)
