"""Errors become one line and an exit status."""

import errno
import os
import subprocess
import sys

import pytest

from lenet_pl.errors import ConfigError, DataError, exit_on_error, one_line, print_error


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


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "f"), 1, "f: No space left"),
        (OSError(errno.ENOENT, "No such file or directory"), 1, "current folder: No such file"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "f"), 2, "f: File name too long"),
        (OSError(errno.EACCES, "Permission denied", "f"), 2, "f: Permission denied"),
    ],
)
def test_file_errors(capsys, error, status, line):
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise error
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_lines_are_short_and_printable(capsys):
    print_error("name=\x1b[31mred \u202e " + "9" * 5000 + ": must be short")
    line = capsys.readouterr().err
    assert line.startswith(r"error: name=\x1b[31mred \u202e 999")
    assert line.endswith("999: must be short\n")
    assert len(line) < 500


OUTPUT = """
import sys
from lenet_pl.errors import check_output, exit_on_error, protect_output
protect_output()
print("10 \\xb7 \\xd7 \\u4e00" * 2000, flush=True)
print("ended", file=sys.stderr)
with exit_on_error():
    check_output()
"""


@pytest.mark.parametrize(
    ("redirection", "status", "errors"),
    [
        ("> /dev/null", 0, "ended\n"),
        ("> /dev/full", 1, "ended\nerror: standard output: No space left on device\n"),
        (">&-", 0, "ended\n"),
        ("2> /dev/full", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_output_that_cannot_be_written(tmp_path, redirection, status, errors):
    (tmp_path / "script.py").write_text(OUTPUT)
    line = f"'{sys.executable}' script.py {redirection}"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (status, errors)


def test_reader_that_has_exited(tmp_path):
    (tmp_path / "script.py").write_text(OUTPUT)
    line = f"'{sys.executable}' script.py | true"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == "ended\n"
