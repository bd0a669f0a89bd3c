"""Semantic labels: public data sets, folders of the user's own, mapper and augmentations."""
