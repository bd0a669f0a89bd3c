"""The errors that end a command without a traceback."""

__all__ = ["MissingFileError", "UsageError"]


class UsageError(ValueError):
    """The command line or the config asks for something impossible; the message says what."""


class MissingFileError(UsageError, FileNotFoundError):
    """The command line or the config names a file that does not exist."""
