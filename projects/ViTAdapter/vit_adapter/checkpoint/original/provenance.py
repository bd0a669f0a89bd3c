"""What a checkpoint needs in addition to its weights: the fusion mode and the pixel statistics."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vit_adapter.checkpoint.original.config_text import PixelStatistics, read_stored_config
from vit_adapter.checkpoint.original.layouts import layout_of_theirs
from vit_adapter.checkpoint.original.layouts.backbone import NUM_OUTPUTS

__all__ = [
    "IMAGENET",
    "METADATA_KEY",
    "BACKBONE_TREES",
    "TREES",
    "Provenance",
    "find_tree",
    "read_provenance",
    "stored_provenance",
]

BACKBONE_TREES = ("detection", "segmentation")
"""The copies of the original's backbones."""

TREES = (*BACKBONE_TREES, "mask2former")
METADATA_KEY = "vit_adapter"
"""The key under which a converted checkpoint stores its provenance."""

IMAGENET = PixelStatistics((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True)
class Provenance:
    """Where a checkpoint comes from.

    Attributes:
        tree: "detection" or "segmentation", the copy of the original's networks; "mask2former", a
            head with the names of Mask2Former's authors; "dinov2" or "dinov3", the segmentors of
            these models' authors.
        vit_feature_fusion: the argument of :class:`vit_adapter.ViTAdapter`; None for a backbone
            that is not an adapter.
        pixels: pixel statistics for evaluation.
        pixels_are_known: whether the checkpoint states them; otherwise the usual ones are assumed.
        notes: what users should know.
    """

    tree: str
    vit_feature_fusion: str | None
    pixels: PixelStatistics
    pixels_are_known: bool
    notes: tuple[str, ...] = field(default=())

    def as_metadata(self) -> dict[str, object]:
        """Plain values to store next to the weights, under :data:`METADATA_KEY`."""
        return {
            "tree": self.tree,
            "vit_feature_fusion": self.vit_feature_fusion,
            "input_format": self.pixels.channels,
            "pixel_mean": list(self.pixels.mean),
            "pixel_std": list(self.pixels.std),
            "pixels_are_known": self.pixels_are_known,
        }


def stored_provenance(checkpoint: Mapping[str, object]) -> Provenance | None:
    """Read the values of :meth:`Provenance.as_metadata` from a checkpoint.

    Args:
        checkpoint: as stored in the file.

    Returns:
        The provenance, or None if the checkpoint has none.

    Raises:
        ValueError: it is incomplete.
    """
    meta = checkpoint.get("meta")
    places = [checkpoint, meta if isinstance(meta, Mapping) else {}]
    stored = next((place[METADATA_KEY] for place in places if METADATA_KEY in place), None)
    if stored is None:
        return None
    try:
        pixels = PixelStatistics(
            tuple(map(float, stored["pixel_mean"])),
            tuple(map(float, stored["pixel_std"])),
            stored["input_format"],
        )
        return Provenance(
            stored["tree"], stored["vit_feature_fusion"], pixels, stored["pixels_are_known"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the values that the checkpoint stores under {METADATA_KEY!r} are incomplete "
            f"({error!r}); convert the original's file again"
        ) from error


def find_tree(names: Iterable[str]) -> str | None:
    """Find the tree from the names of the heads; None for a backbone alone."""
    return layout_of_theirs(names).tree


def read_provenance(
    checkpoint: Mapping[str, object], names: Iterable[str], tree: str | None = None
) -> Provenance:
    """Find the provenance from the names and the stored config.

    Args:
        checkpoint: as stored in the file. The original's ``meta`` is read, or the values of
            :meth:`Provenance.as_metadata` in a checkpoint of this project.
        names: the original's names of the weights.
        tree: the tree of a backbone alone, which its names do not show.

    Raises:
        ValueError: the tree is unknown or contradicts the checkpoint.
    """
    names = list(names)
    left = stored_provenance(checkpoint)
    found = find_tree(names) or (left.tree if left else None)
    if found is None and tree is None:
        raise ValueError(
            "the names of a backbone alone do not show whether it was part of a detector or a "
            "segmentor, which add the ViT's tokens to the outputs in different ways; "
            f"choose one with --tree {' or --tree '.join(BACKBONE_TREES)}"
        )
    if found and tree and found != tree:
        raise ValueError(f"the checkpoint is from the {found} tree, not {tree}; omit --tree")
    if left:
        return left
    return _from_stored_config(checkpoint, names, found or tree)


def _from_stored_config(
    checkpoint: Mapping[str, object], names: Iterable[str], tree: str
) -> Provenance:
    stored = read_stored_config(checkpoint)
    if tree == "dinov3":  # their code has no other statistics
        return Provenance(tree, _fusion(tree, names, {}), IMAGENET, True)
    fusion = _fusion(tree, names, stored.backbone if stored else {})
    if stored is None or stored.test is None:
        note = (
            "the checkpoint does not state how its pixels were normalised; ImageNet statistics are "
            "assumed. Models trained from AugReg B and L used mean and std 127.5 in all channels"
        )
        return Provenance(tree, fusion, IMAGENET, False, (note,))
    notes: tuple[str, ...] = ()
    if stored.train not in (None, stored.test):
        notes = (f"training used different pixel statistics than evaluation: {stored.train}",)
    return Provenance(tree, fusion, stored.test, True, notes)


def _fusion(tree: str, names: Iterable[str], backbone: Mapping[str, object]) -> str | None:
    """The fusion mode of an adapter, from its tree, its interactions and its arguments."""
    pattern = re.compile(r"(?:backbone\.|segmentation_model\.0\.)?interactions\.(\d+)\.")
    interactions = {found[1] for name in names if (found := pattern.match(name))}
    if not interactions:
        return None
    if backbone.get("add_vit_feature") is False:
        return "none"
    if tree == "detection":
        return "per_interaction" if backbone.get("version") == "old" else "last"
    # The segmentors add one map to each of the four outputs, or none in the model with one
    # interaction.
    return "per_interaction" if len(interactions) == NUM_OUTPUTS else "none"
