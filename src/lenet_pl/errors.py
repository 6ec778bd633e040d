"""Errors, how every command reports them, and output streams that never raise.

A command ends with one line on standard error and an exit status: 0 for success, 1 for work that
failed or was stopped, 2 for an invalid request. ``HYDRA_FULL_ERROR=1`` shows tracebacks instead.
"""

import errno
import io
import logging
import os
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

FAILED, INVALID = 1, 2
# with another path, the command may succeed
UNUSABLE = (errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)


class UserError(Exception):
    """An invalid request; the message has the key, the value and the valid choices."""


class ConfigError(UserError):
    """An invalid configuration, argument or run folder."""


class DataError(UserError):
    """Data that is missing, damaged or not what the run needs."""


class VerificationError(Exception):
    """A result that does not pass its check."""


def one_line(error: BaseException, max_words: int | None = None) -> str:
    """The first words of an error's message on one line; its class name if it has none."""
    return " ".join(str(error).split()[:max_words]) or type(error).__name__


def printable(text: str) -> str:
    r"""Escape control characters, as in ``\x1b[31m``, so that names cannot control a terminal."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else ascii(c)[1:-1]
        for c in text
    )


def shorten(text: str, length: int = 200) -> str:
    """Replace the middle of a long text by an ellipsis."""
    return text if len(text) <= length else f"{text[: length // 2]}…{text[-length // 2 :]}"


def print_error(message: str) -> None:
    """Print one line to standard error."""
    line = " ".join(shorten(word, 400) for word in message.split())
    print("error:", printable(shorten(line, 2000)), file=sys.stderr)


def fail(message: str, status: int = INVALID) -> NoReturn:
    """Print one line to standard error and exit."""
    print_error(message)
    raise SystemExit(status)


@contextmanager
def exit_on_error(
    describe: Callable[[Exception], str | None] = lambda error: None,
) -> Iterator[None]:
    """Exit with one line for a :class:`UserError` (2) and for a failed computation (1).

    ``describe`` returns the message for other exceptions that the user can fix, or None. All others
    are defects: their traceback is printed, and the status is 1.
    """
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted", FAILED)
    except Exception as error:
        message, status = describe(error), INVALID
        if isinstance(error, UserError):
            message = str(error)
        elif isinstance(error, FloatingPointError | VerificationError):
            message, status = str(error), FAILED
        elif isinstance(error, OSError) and not message:
            # os.getcwd() gives no name
            unnamed = "current folder" if error.errno == errno.ENOENT else "file"
            message = f"{error.filename or unnamed}: {error.strerror or one_line(error)}"
            status = INVALID if error.errno in UNUSABLE else FAILED
        if not message or os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        if message:
            fail(message, status)
        raise SystemExit(FAILED) from error


class BestEffortOutput(io.FileIO):
    """A raw stream that drops what cannot be written, as to a full disk or a closed pipe."""

    error: OSError | None = None  # the first

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            return len(data)


def protect_output() -> None:
    """Make printing never raise, even if a stream is closed or cannot encode the text."""
    logging.raiseExceptions = False
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and hasattr(stream, "buffer"):
            stream.flush()
            buffer = io.BufferedWriter(BestEffortOutput(stream.fileno(), "w", closefd=False))
            modes = stream.line_buffering, stream.write_through
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, "replace", None, *modes))


def check_output() -> None:
    """Raise OSError if standard output could not be written; exit if nobody reads it."""
    sys.stdout.flush()
    if error := getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "error", None):
        if isinstance(error, BrokenPipeError):
            raise SystemExit(FAILED)
        error.filename = "standard output"
        raise error
