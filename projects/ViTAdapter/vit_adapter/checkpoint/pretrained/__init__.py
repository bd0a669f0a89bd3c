"""Weights of pre-trained ViTs: one reader for each family, chosen by the class of the trunk."""

from vit_adapter.checkpoint.pretrained.load import find_trunk, load_pretrained_vit

__all__ = ["find_trunk", "load_pretrained_vit"]
