"""Boxes and masks: COCO-format files of the user's own, the mapper and its augmentations."""
