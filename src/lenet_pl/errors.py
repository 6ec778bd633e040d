"""Errors that the user can fix, and how every command reports them: one line and an exit status.

Exit status: 0 for success, 1 for a run that failed or was stopped, 2 for an invalid request.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

FAILED, INVALID = 1, 2


class UserError(Exception):
    """An invalid request; the message has the key, the value and the valid choices."""


class ConfigError(UserError):
    """An invalid configuration, argument or run folder."""


class DataError(UserError):
    """Data that is missing, damaged or not what the run needs."""


class VerificationError(Exception):
    """Work that was done but does not pass its check; nothing of it is kept."""


def one_line(error: BaseException, max_words: int | None = None) -> str:
    """Return the message of an error on one line, or its class name if it has no message.

    Args:
        error: the error.
        max_words: where to cut off a long message of another library; None keeps all of it.
    """
    return " ".join(str(error).split()[:max_words]) or type(error).__name__


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
        describe: returns the message for other exceptions that the user can fix, or None to let an
            exception propagate.
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
