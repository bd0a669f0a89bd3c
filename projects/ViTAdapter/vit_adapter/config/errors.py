"""The error that ends a command without a traceback."""

__all__ = ["UsageError"]


class UsageError(ValueError):
    """The command line or the config asks for something impossible; the message says what."""
