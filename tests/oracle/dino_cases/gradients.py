"""Gradients of everything outside the ViT, which is fixed."""

from case_files import Case, check
from dino_cases.models import Segmentor, build, names
from dino_cases.reader import FILES, reads
from torch import Tensor


def check_gradients(model: Segmentor, loss: Tensor, expected: Case) -> None:
    """Compare the gradients of a loss with those in ``expected``, which has their names."""
    assert len(expected)
    model.zero_grad()
    loss.backward()
    ours = names(expected.kind)
    for name, gradient in expected.items():
        check(model.get_parameter(ours[name]).grad, gradient)
    assert all(parameter.grad is None for parameter in model.backbone.vit.parameters())


@reads("dinov3_gradients dinov2_gradients", "*")
def test_gradients(case: Case) -> None:
    model = build(case.kind)
    images = FILES.open(f"{case.kind}_case_a", ())["image"]
    features = model.backbone(images)
    loss = sum(each.square().mean() for each in features.values())
    check(loss, case["loss_features"])
    check_gradients(model, loss, case.within("features/"))
    (prediction,) = model.head(model.backbone(images))
    loss = prediction.class_logits.square().mean() + prediction.mask_logits.square().mean()
    check(loss, case["loss_head"])
    check_gradients(model, loss, case.within("head/"))
