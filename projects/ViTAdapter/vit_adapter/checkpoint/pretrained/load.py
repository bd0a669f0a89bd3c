"""Pre-trained weights for the ViT inside a model, loaded by the rules of the ViT's family."""

import logging
import os
from dataclasses import replace

from torch import nn

from vit_adapter.backbone.lora import belongs_to_lora
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.checkpoint.inflation import inflate_inputs
from vit_adapter.checkpoint.loading import CheckpointMismatchError, LoadReport, compare_keys
from vit_adapter.checkpoint.pretrained.hub import read_weights
from vit_adapter.checkpoint.pretrained.patch_kernel import PatchResize, fit_patch_kernel
from vit_adapter.checkpoint.pretrained.reader import TrunkWeights
from vit_adapter.checkpoint.pretrained.registry import find_reader
from vit_adapter.checkpoint.pretrained.structure import describe_difference
from vit_adapter.checkpoint.pretrained.transformers_names import with_authors_names

__all__ = ["find_trunk", "load_pretrained_vit", "trunk_names"]

logger = logging.getLogger(__name__)


def find_trunk(model: nn.Module) -> ViTTrunk:
    """Return the one plain ViT inside a model.

    Raises:
        ValueError: there is none, or more than one.
    """
    trunks = list(_trunks(model).values())
    if len(trunks) != 1:
        raise ValueError(
            f"weights of a plain ViT need a model with one ViT trunk, but this one has "
            f"{len(trunks)}; give the weights of the whole model instead (train.init_checkpoint)."
        )
    return trunks[0]


def trunk_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters of all plain ViTs inside a model."""
    trunks = _trunks(model).items()
    return {name for prefix, trunk in trunks for name, _ in trunk.named_parameters(prefix=prefix)}


def _trunks(model: nn.Module) -> dict[str, ViTTrunk]:
    return {name: part for name, part in model.named_modules() if isinstance(part, ViTTrunk)}


def load_pretrained_vit(
    vit: ViTTrunk,
    path: str | os.PathLike[str],
    *,
    patch_resize: PatchResize = "pseudo_inverse",
) -> LoadReport:
    """Load pre-trained weights into a trunk and report on every name.

    The class of the trunk decides how the file is read (see the other modules of this package).
    DINOv2 and DINOv3 may also have the names of Hugging Face's transformers; the report and the
    messages then have their authors' names.
    Names that only a classifier or a reconstruction decoder has are skipped. Parameters that no
    pre-training has (layer scale of a plain ViT, ViTDet's residual blocks, LoRA factors) keep their
    initial values. Both are logged, as is every tensor that was resized. The patch kernel is
    inflated if the trunk does not take three channels. Everything else must fit.

    Args:
        vit: the trunk.
        path: file or URL of the weights, or their name in timm; see :func:`read_weights`.
        patch_resize: how a patch kernel of a different size, such as DINOv2's, is resized to that
            of the trunk; see :func:`resize_patch_kernel`. timm's ViTs use timm's own method.

    Returns:
        The report; its ``unused`` and ``missing`` names were skipped.

    Raises:
        FileNotFoundError, ConnectionError: the file does not exist or cannot be downloaded.
        CheckpointFileError: the file cannot be read, or holds no ViT of the trunk's family.
        CheckpointMismatchError: a name or shape does not fit; nothing was loaded.
        ValueError: there is no reader for this class of trunk, or timm has no such weights.
    """
    name = os.fspath(path)
    reader = find_reader(vit)
    state_dict = with_authors_names(read_weights(name), name)
    weights = fit_patch_kernel(vit, reader.adapt(vit, state_dict, name), patch_resize)
    inflated, inflations = inflate_inputs(weights.state_dict, vit.state_dict())
    weights = TrunkWeights(inflated, (*weights.resized, *inflations))
    report = replace(compare_keys(vit, weights.state_dict), resized=weights.resized)
    missing = report.without(reader.not_pretrained).missing
    refused = replace(
        report,
        unused=report.without(reader.passed_over).unused,
        missing=tuple(name for name in missing if not belongs_to_lora(name)),
        resized=(),
    )
    if not refused.is_exact:
        raise CheckpointMismatchError(
            f"checkpoint {name!r} does not fit the trunk"
            f"{describe_difference(weights.state_dict, vit)}. Nothing was loaded.\n"
            f"{refused.describe()}\n{reader.advise(vit, refused)}",
            refused,
        )
    vit.load_state_dict({key: weights.state_dict[key] for key in report.loaded}, strict=False)
    kept = [name for name in report.missing if not belongs_to_lora(name)]
    if len(kept) < len(report.missing):
        kept.append(f"{len(report.missing) - len(kept)} tensors of LoRA")
    logger.info(
        "Loaded %d of %d tensors of %s; skipped: %s; kept their initial values: %s",
        len(report.loaded),
        len(weights.state_dict),
        name,
        ", ".join(report.unused) or "none",
        ", ".join(kept) or "none",
    )
    if report.resized:
        logger.info("Resized while loading: %s", "; ".join(map(str, report.resized)))
    return report
