"""Small models to export."""

import torch
from detectron2.modeling import SemanticSegmentor
from torch import nn

from vit_adapter import BEiT, PlainViT, TimmViT, ViTAdapter
from vit_adapter.segmentation import UPerNetHead

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SIZES = {"img_size": 64, "embed_dim": 12, "depth": 1, "num_heads": 2}
VITS = {
    "deit": lambda: PlainViT(**SIZES),
    "beit": lambda: BEiT(**SIZES),
    "dinov3": lambda: TimmViT(
        name="vit_small_patch16_dinov3", depth=1, embed_dim=16, model_args={"num_heads": 2}
    ),
}


def make_segmentor(mode: str = "light", *, vit: str = "deit") -> SemanticSegmentor:
    """A UPerNet with random weights."""
    torch.manual_seed(0)
    backbone = ViTAdapter(
        VITS[vit](),
        mode=mode,
        interaction_indexes=[(0, 0)],
        conv_inplane=4,
        deform_num_heads=2,
        norm="BN",
        use_extra_extractor=False,
    )
    head = UPerNetHead(
        input_shape=backbone.output_shape(), channels=8, num_classes=3, norm="BN", dropout=0.0
    )
    model = SemanticSegmentor(
        backbone=backbone, sem_seg_head=head, pixel_mean=MEAN, pixel_std=STD
    ).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model
