"""Weights of pre-trained ViTs: one reader per family, chosen by the class of the trunk."""

# The modules of the families. Importing one registers its reader.
from vit_adapter.checkpoint.pretrained import beit, plain, timm_vit, uni_perceiver  # noqa: F401
from vit_adapter.checkpoint.pretrained.load import find_trunk, load_pretrained_vit, trunk_names

__all__ = ["find_trunk", "load_pretrained_vit", "trunk_names"]
