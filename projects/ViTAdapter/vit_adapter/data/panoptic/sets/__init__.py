"""Public panoptic data sets: one definition each, and their registration."""
