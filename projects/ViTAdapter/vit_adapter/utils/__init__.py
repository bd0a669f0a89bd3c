"""What every part of the package may use: whole files, and hints in error messages."""
