"""Errors become one line and an exit status."""

import pytest

from lenet_pl.errors import ConfigError, DataError, exit_on_error, one_line


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("a=1:\n  must be 2"), 2, "error: a=1: must be 2\n"),
        (DataError("no data"), 2, "error: no data\n"),
        (FloatingPointError("train/loss is nan"), 1, "error: train/loss is nan\n"),
        (KeyboardInterrupt(), 1, "error: interrupted\n"),
        (LookupError("described"), 2, "error: a lookup failed\n"),
    ],
)
def test_exit_status_and_line(capsys, error, status, line):
    def describe(error: Exception) -> str | None:
        return "a lookup failed" if isinstance(error, LookupError) else None

    with pytest.raises(SystemExit) as ended, exit_on_error(describe):
        raise error
    assert ended.value.code == status
    assert capsys.readouterr().err == line


def test_defect_shows_its_traceback(capsys):
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise ZeroDivisionError
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("Traceback")


def test_one_line():
    assert one_line(ValueError("first\n  second third")) == "first second third"
    assert one_line(ValueError("first\n  second third"), max_words=2) == "first second"
    assert one_line(ValueError()) == "ValueError"
