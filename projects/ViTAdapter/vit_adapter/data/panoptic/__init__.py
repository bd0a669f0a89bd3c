"""Panoptic segments: classes, mapper."""
