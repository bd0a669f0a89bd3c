"""Predictions of the heads."""

import torch
from case_files import Case, check
from dino_cases.models import build
from dino_cases.reader import reads
from torch.nn import functional


@reads(
    "dinov3_case_* dinov2_case_*",
    "mask_features",
    "level*",
    "all_logits",
    "pred_masks",
    "mask_margin",
)
@torch.no_grad()
def test_head(case: Case) -> None:
    model = build(case.kind)
    pixels = model.head.pixel_decoder(model.backbone(case["image"]))
    check(pixels.mask_features, case["mask_features"])
    levels = case.numbered("level")
    assert len(levels) == len(pixels.levels)
    for computed, expected in zip(pixels.levels, levels, strict=True):
        check(computed, expected)
    predictions = model.head.transformer_decoder(pixels, intermediate=True)
    check(torch.stack([each.class_logits for each in predictions]), case["all_logits"])
    check(predictions[-1].mask_logits, case["pred_masks"])
    deciding = [
        functional.interpolate(
            prediction.mask_logits,
            levels[i % len(levels)].shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
        for i, prediction in enumerate(predictions[:-1])
    ]
    smallest = torch.stack([masks.abs().min() for masks in deciding]).min()
    torch.testing.assert_close(smallest, case["mask_margin"], rtol=1e-6, atol=1e-9)
