"""What failed, in one line for tables."""

__all__ = ["describe_failure"]


def describe_failure(error: Exception) -> str:
    """Return the type of an error and the first line of its message, if it has one."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first_line}".removesuffix(": ")
