"""Export small models of every family in every format, and print a Markdown table of the outcome.

    export_table.py --formats pt2 onnx --only dinov2 upernet

Each cell is the largest difference between the file and the model, relative to the largest value of
an output, or why the export is refused. Only the sizes are reduced: two blocks of each ViT.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402
import torch
from detectron2.modeling import SemanticSegmentor
from torch import nn

from vit_adapter import BEiT, PlainViT, TimmViT, ViTAdapter
from vit_adapter.config.errors import UsageError
from vit_adapter.export.export import export_model
from vit_adapter.export.formats import FORMATS
from vit_adapter.export.models import ExportableModel, exportable
from vit_adapter.export.shapes import ImageShapes
from vit_adapter.mask2former import (
    HungarianMatcher,
    Mask2Former,
    Mask2FormerHead,
    MaskedTransformerDecoder,
    MSDeformAttnPixelDecoder,
    SetCriterion,
)
from vit_adapter.segmentation import SemanticFPNHead, UPerNetHead

PIXELS = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375)}
SIZES = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}
VITS: dict[str, Callable[[], nn.Module]] = {
    "deit": lambda: PlainViT(**SIZES),
    "beit": lambda: BEiT(**SIZES),
    "beit3": lambda: TimmViT(name="beit3_base_patch16_224", depth=2),
    "dinov2": lambda: TimmViT(name="vit_small_patch14_dinov2", depth=2, patch_size=14),
    "dinov3": lambda: TimmViT(name="vit_small_patch16_dinov3", depth=2),
    "eva02": lambda: TimmViT(name="eva02_tiny_patch14_224", depth=2, patch_size=16),
}
VARIANTS = {
    "static": {},
    "dynamic batch": {"dynamic_batch": True},
    "dynamic size": {"dynamic_size": True},
}


def make_backbone(vit: str = "deit", mode: str = "full") -> ViTAdapter:
    """Build an adapter around a small ViT."""
    return ViTAdapter(
        VITS[vit](),
        mode=mode,
        interaction_indexes=[(0, 0), (1, 1)],
        conv_inplane=8,
        deform_num_heads=6,
        norm="BN",
        init_values=0.5,
    )


def make_semantic(head: type[nn.Module], **arguments: object) -> nn.Module:
    """Build a semantic model on the smallest backbone."""
    backbone = make_backbone()
    head = head(input_shape=backbone.output_shape(), num_classes=5, norm="BN", **arguments)
    return SemanticSegmentor(backbone=backbone, sem_seg_head=head, **PIXELS)


def make_mask2former() -> nn.Module:
    """Build a Mask2Former on the smallest backbone."""
    backbone = make_backbone()
    sizes = {"embed_dim": 32, "mask_dim": 32, "num_heads": 4, "ffn_dim": 64}
    head = Mask2FormerHead(
        pixel_decoder=MSDeformAttnPixelDecoder(backbone.output_shape(), **sizes, num_layers=1),
        transformer_decoder=MaskedTransformerDecoder(
            **sizes, num_classes=5, num_queries=10, num_layers=3
        ),
    )
    criterion = SetCriterion(num_classes=5, matcher=HungarianMatcher())
    return Mask2Former(backbone=backbone, head=head, criterion=criterion, **PIXELS)


class _BackboneAlone(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        for name, values in PIXELS.items():
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))


def models() -> Iterator[tuple[str, Callable[[], ExportableModel]]]:
    """Yield the name of each row and what builds its model."""
    for vit in VITS:
        for mode in ("full", "light", "frozen"):

            def build(vit: str = vit, mode: str = mode) -> ExportableModel:
                return exportable(_BackboneAlone(make_backbone(vit, mode)), backbone_only=True)

            yield f"{vit}, {mode}", build
    yield "semantic FPN", lambda: exportable(make_semantic(SemanticFPNHead, conv_dims=32))
    yield "UPerNet", lambda: exportable(make_semantic(UPerNetHead, channels=16))
    yield "Mask2Former", lambda: exportable(make_mask2former())


def outcome(core: ExportableModel, file_format: str, variant: str) -> str:
    """Export a model into a temporary folder and say how it went."""
    shapes = ImageShapes(1, 64, 96, **VARIANTS[variant])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{FORMATS[file_format].suffix}"
        try:
            check = export_model(core, shapes, path, file_format=file_format, description={})
        except UsageError as error:
            return f"refused: {error}"
    return f"{check.largest:.1e}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    add("--only", nargs="+", default=[""], metavar="TEXT", help="rows whose name contains a TEXT")
    args = parser.parse_args(argv)
    columns = [(kind, variant) for kind in args.formats for variant in args.variants]
    titles = ["model", *(f"{kind}, {variant}" for kind, variant in columns)]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for name, build in models():
        if not any(text in name for text in args.only):
            continue
        torch.manual_seed(0)
        core = build()
        cells = [outcome(core, kind, variant) for kind, variant in columns]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
