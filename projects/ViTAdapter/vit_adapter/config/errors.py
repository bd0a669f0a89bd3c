"""The errors that end a command without a traceback."""

__all__ = ["MissingFileError", "UsageError"]


class UsageError(ValueError):
    """The command line or the config is wrong; the message says what to change."""


class MissingFileError(UsageError, FileNotFoundError):
    """The command line or the config names a file that does not exist."""
