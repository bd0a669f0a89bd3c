"""Export small models of every family in every format, and print a Markdown table of the outcome.

    export_table.py --formats pt2 onnx --only dinov2 UPerNet

Each cell is the largest difference between the file and the model, relative to the largest value of
an output, or why the export is refused. Only the sizes are reduced: each ViT has two blocks.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402
import torch
from detectron2.config import LazyCall as L, instantiate
from detectron2.modeling import SemanticSegmentor
from torch import nn

from vit_adapter import BEiT, PlainViT, TimmViT, ViTAdapter, model_zoo
from vit_adapter.config.errors import UsageError
from vit_adapter.export.checks import check_run
from vit_adapter.export.export import trace
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

logger = logging.getLogger(__name__)

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
DETECTORS = {
    "Mask R-CNN": "mask_rcnn",
    "Cascade Mask R-CNN": "cascade_mask_rcnn",
    "HTC": "htc",
    "ATSS": "atss",
    "GFL": "gfl",
    "Sparse R-CNN": "sparse_rcnn",
}
VARIANTS = {
    "static": {},
    "dynamic batch": {"dynamic_batch": True},
    "dynamic size": {"dynamic_size": True},
}


def make_backbone(vit: str = "deit", mode: str = "full", **arguments: object) -> ViTAdapter:
    """Build an adapter around a small ViT."""
    return ViTAdapter(
        VITS[vit](),
        mode=mode,
        **arguments,
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


def make_detector(name: str) -> nn.Module:
    """Build the detector of a quick-start config on the smallest backbone.

    Initial weights find nothing, or objects with almost equal scores. These find as many as they
    may, so that there is something to compare.
    """
    config = model_zoo.get_config(f"quick_start/{name}_vit_adapter_tiny_scratch").model
    backbone = L(make_backbone)(out_features=list(config.backbone.in_features))
    if name == "htc":
        config.backbone.bottom_up.bottom_up, config.backbone.bottom_up.num_heads = backbone, 6
    else:
        config.backbone.bottom_up = backbone
    model = instantiate(config)
    for module_name, module in model.named_modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.0
        if isinstance(module, nn.Linear | nn.Conv2d) and "bottom_up" not in module_name:
            predicts = module_name.endswith((".bbox_pred", ".anchor_deltas", ".cls_score"))
            gain = 0.3 if predicts else 1.4
            nn.init.normal_(module.weight, std=gain * module.weight[0].numel() ** -0.5)
    return model


class _BackboneAlone(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        for name, values in PIXELS.items():
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))


def models() -> Iterator[tuple[str, Callable[[], ExportableModel]]]:
    """Yield the name of each row and what builds its model."""
    for vit, mode in [*((vit, "full") for vit in VITS), ("deit", "light"), ("deit", "frozen")]:

        def build_backbone(vit: str = vit, mode: str = mode) -> ExportableModel:
            return exportable(_BackboneAlone(make_backbone(vit, mode)), backbone_only=True)

        yield f"{vit}, {mode}", build_backbone
    yield "semantic FPN", lambda: exportable(make_semantic(SemanticFPNHead, conv_dims=32))
    yield "UPerNet", lambda: exportable(make_semantic(UPerNetHead, channels=16))
    yield "Mask2Former", lambda: exportable(make_mask2former())
    for title, name in DETECTORS.items():
        yield title, lambda name=name: exportable(make_detector(name))


def outcomes(core: ExportableModel, formats: Sequence[str], variant: str) -> list[str]:
    """Export a model in some formats into a temporary folder, and say how it went with each."""
    side = core.shortest_side
    shapes = ImageShapes(1, side, side + 32, **VARIANTS[variant], shortest_side=side)
    return [outcome(core, name, shapes) for name in formats]


def outcome(core: ExportableModel, file_format: str, shapes: ImageShapes) -> str:
    """Write a model in one format, and say how it went."""
    kind = FORMATS[file_format]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{kind.suffix}"
        try:
            # Traced for each format, because writing one may change the graph of the next.
            kind.write(trace(core, shapes), core.output_names, path)
        except UsageError as error:
            return f"refused: {error}"
        except Exception as error:  # of an exporter, which raises anything; others go on
            logger.exception("writing %s failed", path.name)
            return f"FAILED: {type(error).__name__}"
        try:
            check = check_run(core, kind.load(path), shapes)
        except Exception as error:  # of a runtime, likewise
            logger.exception("running %s failed", path.name)
            return f"FAILED: {error}"
    if check.empty:
        return f"not compared: {', '.join(check.empty)} of the model are 0"
    return f"{check.largest:.1e}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 1 if an exporter or a file failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    add("--only", nargs="+", default=[""], metavar="TEXT", help="rows whose name contains a TEXT")
    args = parser.parse_args(argv)
    failed = False
    columns = [f"{name}, {variant}" for variant in args.variants for name in args.formats]
    print(f"| {' | '.join(['model', *columns])} |\n|{'---|' * (len(columns) + 1)}")
    for name, build in models():
        if not any(text in name for text in args.only):
            continue
        torch.manual_seed(0)
        core = build()
        cells = [
            cell for variant in args.variants for cell in outcomes(core, args.formats, variant)
        ]
        failed |= any(cell.startswith("FAILED") for cell in cells)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
