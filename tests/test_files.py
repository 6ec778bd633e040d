"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from lenet_pl.files import display_path, replacing, write_bytes, write_csv, write_json


def test_a_writer_in_between_leaves_whole_files(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as part:
        part.write_bytes(b"first")
        write_bytes(path, b"second")  # begins and ends while the first is still writing
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail_half_way() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_and_csv(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, None]})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": [\n    1,\n    null\n  ]\n}\n'
    write_csv(tmp_path / "a.csv", ["x", "y"], [[1, "a,b"], [0.1, None]])
    assert (tmp_path / "a.csv").read_bytes() == b'x,y\r\n1,"a,b"\r\n0.1,\r\n'


def test_display_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert display_path(tmp_path / "a" / "b") == display_path(Path("a/b")) == Path("a/b")
    assert display_path(Path("/elsewhere")) == Path("/elsewhere")
