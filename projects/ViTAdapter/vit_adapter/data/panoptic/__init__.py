"""Panoptic segments: files of your own, mapper, classes."""
