"""One-stage detectors with one anchor per cell."""
