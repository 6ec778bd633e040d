"""The command ``lenet-pl export``."""

import json
import re
import sys

import pytest
from helpers.programs import require


def test_page_is_verified_with_node(run, lenet_pl, tmp_path):
    require("node")
    words = ["--format", "html", "--output", tmp_path / "new" / "a.html"]
    status, out, err = lenet_pl("export", run, *words, "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert "Node.js v" in answer["checked_with"]
    assert (answer["images"], answer["agree"]) == (1000, 1000)
    assert answer["difference"] < 1e-5
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.html"]


@pytest.mark.parametrize("version", [None, "v16.20.2"])
def test_page_is_not_verified_without_a_current_node(run, lenet_pl, monkeypatch, tmp_path, version):
    folder = tmp_path / "bin"
    folder.mkdir()
    if version:
        node = folder / "node"
        node.write_text(f"#!/bin/sh\necho {version}\n")
        node.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    words = ["--format", "html", "--output", tmp_path / "new" / "a.html"]
    status, out, err = lenet_pl("export", run, *words, "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert [answer[key] for key in ("checked_with", "difference", "agree")] == [None] * 3
    assert answer["images"] == 1000
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.html"]
    status, out, err = lenet_pl("export", run, *words)
    assert status == 0, err
    assert re.search(r"^not verified +Node.js 18 or later was not found$", out, re.MULTILINE)


def test_missing_package_is_named(run, lenet_pl, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    words = ["--format", "onnx", "--output", "nowhere/model.onnx"]
    status, _, err = lenet_pl("export", run, *words)
    assert status == 2
    assert "onnxscript" in err
    assert 'pip install "lenet-pl[export]"' in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "is a folder"), ("a.bin", "ends in .pt2"), ("file/a.pt2", "file: File exists")],
)
def test_invalid_output(run, lenet_pl, tmp_path, name, reason):
    (tmp_path / "file").touch()
    words = ["--format", "torch", "--output", tmp_path / name]
    status, _, err = lenet_pl("export", run, *words)
    assert status == 2
    assert reason in err
    assert len(err.splitlines()) == 1
