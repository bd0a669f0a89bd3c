"""Boxes and masks: users' own COCO-format files, the mapper and its augmentations."""
