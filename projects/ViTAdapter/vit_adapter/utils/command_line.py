"""What the tools have in common when they run from the command line."""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec

from detectron2.utils.logger import setup_logger

__all__ = ["reports_errors"]

_P = ParamSpec("_P")


def reports_errors(
    logger: logging.Logger, *errors: type[Exception]
) -> Callable[[Callable[_P, int]], Callable[_P, int]]:
    """Decorate the ``main`` of a tool: some errors end it with a message and exit status 2.

    Messages of the package are printed while it runs.

    Args:
        logger: logs the message, as an error.
        *errors: those whose message says what to do, so that nobody needs the traceback.
    """

    def decorate(main: Callable[_P, int]) -> Callable[_P, int]:
        @functools.wraps(main)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> int:
            setup_logger(name="vit_adapter")
            try:
                return main(*args, **kwargs)
            except errors as error:
                logger.error("%s", error)
                return 2

        return run

    return decorate
