"""Semantic labels: public data sets, custom folders, mapper and augmentations."""
