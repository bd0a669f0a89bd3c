"""Semantic labels: public data sets, users' own folders, mapper and augmentations."""
