"""Errors that the user can fix, and how every command reports them: one line and an exit status.

0 means done, 1 that the work failed or was stopped, 2 that the request cannot be met.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

FAILED, INVALID = 1, 2


class UserError(Exception):
    """A request that cannot be met; the message names the key, the value and the choices."""


class ConfigError(UserError):
    """A configuration, argument or run folder that cannot work."""


class DataError(UserError):
    """Data that is missing, damaged or not what the run needs."""


class VerificationError(Exception):
    """Work that was done but does not pass its check; nothing of it is kept."""


def one_line(error: BaseException, words: int | None = None) -> str:
    """The message of an error on one line.

    Args:
        error: whose message.
        words: how many words to keep, of a message that another library made; None keeps all.

    Returns:
        The message, or the name of the error's class where it has none.
    """
    return " ".join(str(error).split()[:words]) or type(error).__name__


def fail(message: str, status: int = INVALID) -> NoReturn:
    """Print one line to standard error and exit."""
    print("error:", *message.split(), file=sys.stderr)
    raise SystemExit(status)


@contextmanager
def exit_on_error(
    describe: Callable[[Exception], str | None] = lambda error: None,
) -> Iterator[None]:
    """Exit with one line for a :class:`UserError` (2) and for a failed computation (1).

    Args:
        describe: returns the line for further exceptions that are the user's to fix, or None for
            those that are not, which propagate.
    """
    try:
        yield
    except UserError as error:
        fail(str(error))
    except (FloatingPointError, VerificationError) as error:
        fail(str(error), FAILED)
    except KeyboardInterrupt:
        fail("interrupted", FAILED)
    except Exception as error:
        if (message := describe(error)) is None:
            raise
        fail(message)
