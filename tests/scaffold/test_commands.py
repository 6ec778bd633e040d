"""``lenet-pl new``: what it prints and refuses."""

import shutil

import pytest

from lenet_pl.scaffold import commands


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["torch"], "torch: is installed (version "),
        (["hydra-core"], "hydra-core: is installed (version "),
        (["Json"], "Json: json is a module or a keyword"),
        (["lenet-pl"], "lenet-pl: "),
        (["class"], "class: class is a module or a keyword"),
        (["train"], "train: train is a module or a keyword"),
        (["2nd"], "2nd: must be letters, digits"),
        (["my.digits"], "my.digits: must be letters, digits"),
        (["my digits"], "my digits: must be letters, digits"),
        (["x", "--with", "report,plots"], "--with plots: must be one of evaluation, report, "),
        (["x", "--with", ""], "--with : must be one of evaluation, report, export, sweeps"),
        (["x", "--with", "report", "--only", "core"], "argument --only: not allowed with"),
        (["x", "full"], "full: is not empty; name another folder"),
        (["x", "full/file"], "full/file: Not a directory"),
    ],
)
def test_invalid_requests_write_nothing(lenet_pl, tmp_path, words, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    status, out, error = lenet_pl("new", *words)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"error: {message}")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "full", tmp_path / "full" / "file"]


def test_an_installed_package_has_nothing_to_copy(lenet_pl, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    message = "error: new: needs a checkout of lenet-pl: git clone, then pip install -e .\n"
    assert lenet_pl("new", "digits") == (2, "", message)
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing(lenet_pl, tmp_path, monkeypatch):
    copied = []

    def copy(source, target):
        copied.append(source)
        if len(copied) == 50:
            raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copy", lambda s, t: copy(s, shutil.copyfile(s, t)))
    status, out, error = lenet_pl("new", "digits")
    assert (status, out, error.count("\n")) == (1, "", 1)
    assert "No space left on device" in error
    assert list(tmp_path.iterdir()) == []


def test_the_working_folder_can_be_the_project(lenet_pl, tmp_path):
    status, out, _ = lenet_pl("new", "digits", ".", "--only", "core")
    assert status == 0
    assert out.splitlines()[0] == "written  .: core"
    assert out.splitlines()[-1].split() == ["python", "train.py", "data=mini", "optimizer.lr=0.05"]
    assert (tmp_path / "src" / "digits" / "training.py").is_file()
    assert not list(tmp_path.parent.glob(".*.part"))
