"""Panoptic segments: files of your own, public data sets, mapper."""
