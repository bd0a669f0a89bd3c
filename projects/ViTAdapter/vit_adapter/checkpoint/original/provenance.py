"""What a checkpoint needs besides its weights to compute the same: fusion and pixels."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vit_adapter.checkpoint.original.config_text import PixelStatistics, read_stored_config
from vit_adapter.checkpoint.original.layouts import layout_of_theirs
from vit_adapter.checkpoint.original.layouts.backbone import NUM_OUTPUTS

__all__ = [
    "IMAGENET",
    "METADATA_KEY",
    "TREES",
    "Provenance",
    "find_tree",
    "read_provenance",
    "stored_provenance",
]

TREES = ("detection", "segmentation")
METADATA_KEY = "vit_adapter"
"""Where a converted checkpoint says where it comes from."""

IMAGENET = PixelStatistics((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True)
class Provenance:
    """Where a checkpoint comes from.

    Attributes:
        tree: "detection" or "segmentation": the copy of the original's networks.
        vit_feature_fusion: the argument of :class:`vit_adapter.ViTAdapter`; None for a backbone
            that is no adapter.
        pixels: statistics of the evaluation.
        pixels_are_known: whether the checkpoint says so; False: they are the usual ones.
        notes: what a reader should know.
    """

    tree: str
    vit_feature_fusion: str | None
    pixels: PixelStatistics
    pixels_are_known: bool
    notes: tuple[str, ...] = field(default=())

    def as_metadata(self) -> dict[str, object]:
        """Plain values to be stored beside the weights, under :data:`METADATA_KEY`."""
        return {
            "tree": self.tree,
            "vit_feature_fusion": self.vit_feature_fusion,
            "input_format": self.pixels.channels,
            "pixel_mean": list(self.pixels.mean),
            "pixel_std": list(self.pixels.std),
            "pixels_are_known": self.pixels_are_known,
        }


def stored_provenance(checkpoint: Mapping[str, object]) -> Provenance | None:
    """Read what :meth:`Provenance.as_metadata` has left in a checkpoint.

    Args:
        checkpoint: as stored in the file.

    Returns:
        None if nothing was left.

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
            f"what the checkpoint stores under {METADATA_KEY!r} is incomplete ({error!r}); "
            "convert the original's file again"
        ) from error


def find_tree(names: Iterable[str]) -> str | None:
    """Tell the tree from the names of the heads; None for a backbone alone."""
    return layout_of_theirs(names).tree


def read_provenance(
    checkpoint: Mapping[str, object], names: Iterable[str], tree: str | None = None
) -> Provenance:
    """Find out what the names and the stored config tell.

    Args:
        checkpoint: as stored in the file: the original's ``meta`` is read, or what
            :meth:`Provenance.as_metadata` has left in a checkpoint of this project.
        names: the original's, of the weights.
        tree: the tree of a backbone alone, which its names do not tell.

    Raises:
        ValueError: the tree is unknown, or another than the checkpoint says.
    """
    names = list(names)
    left = stored_provenance(checkpoint)
    found = find_tree(names) or (left.tree if left else None)
    if found is None and tree is None:
        raise ValueError(
            "a backbone alone does not tell whether it was part of a detector or a segmentor, "
            "which add the ViT's tokens to the outputs in different ways; "
            f"say which with --tree {' or --tree '.join(TREES)}"
        )
    if found and tree and found != tree:
        raise ValueError(f"the checkpoint is one of {found}, not of {tree}; leave --tree away")
    if left:
        return left
    return _from_stored_config(checkpoint, names, found or tree)


def _from_stored_config(
    checkpoint: Mapping[str, object], names: Iterable[str], tree: str
) -> Provenance:
    stored = read_stored_config(checkpoint)
    fusion = _fusion(tree, names, stored.backbone if stored else {})
    if stored is None or stored.test is None:
        note = (
            "the checkpoint does not say how its pixels were normalised; ImageNet statistics are "
            "assumed. Models trained from AugReg B and L had mean and std 127.5 in all channels"
        )
        return Provenance(tree, fusion, IMAGENET, False, (note,))
    notes = ()
    if stored.train not in (None, stored.test):
        notes = (f"the training had other pixels than the evaluation: {stored.train}",)
    return Provenance(tree, fusion, stored.test, True, notes)


def _fusion(tree: str, names: Iterable[str], backbone: Mapping[str, object]) -> str | None:
    """The fusion mode of an adapter, from its tree, its interactions and its arguments."""
    pattern = re.compile(r"(?:backbone\.)?interactions\.(\d+)\.")
    interactions = {found[1] for name in names if (found := pattern.match(name))}
    if not interactions:
        return None
    if backbone.get("add_vit_feature") is False:
        return "none"
    if tree == "detection":
        return "per_interaction" if backbone.get("version") == "old" else "last"
    # The segmentation tree adds one map to each of the four outputs or, in the light model with
    # its single interaction, nothing.
    return "per_interaction" if len(interactions) == NUM_OUTPUTS else "none"
