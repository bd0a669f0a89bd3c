"""Helpers for every part of the package: atomic writes, and hints in error messages."""
