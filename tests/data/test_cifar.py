"""CIFAR-10's archive, in the format of the real one."""

import gzip
import hashlib
import io
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from lenet_pl.data import cifar, download
from lenet_pl.data.cifar import CIFAR10
from lenet_pl.errors import DataError

PER_BATCH = 40


class Python2Pickler(pickle._Pickler):
    """Writes bytes as strings of Python 2, as in the real files."""

    dispatch = {**pickle._Pickler.dispatch}  # noqa: RUF012

    def save_string(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_string


def python2_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    # the name of the module in NumPy 1
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def archive(colour_of_class: bool = False) -> bytes:
    """Five training batches and one of test images; class 0 is mostly red if wanted."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            labels = rng.permutation(np.arange(PER_BATCH) % 10)
            data = rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8)
            if colour_of_class:  # of each plane, by the digits of the label in base 3
                planes = data.reshape(PER_BATCH, 3, 1024) // 4
                levels = np.stack([labels // 9 % 3, labels // 3 % 3, labels % 3], axis=1)
                data = (planes + 90 * levels[:, :, None]).astype(np.uint8).reshape(PER_BATCH, 3072)
            content = python2_pickle({"data": data, "labels": labels.tolist()})
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def install(content: bytes, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the archive into the data root, and make its checksum the expected one."""
    checksum = hashlib.md5(content).hexdigest()
    file = download.File("cifar-10-python.tar", 2 * 10**8, checksum, gzipped=True)
    monkeypatch.setattr(CIFAR10, "files", (file,))
    (root / file.stored).write_bytes(content)


def test_images_are_those_that_torchvision_reads(tmp_path, monkeypatch):
    content = archive()
    install(content, tmp_path, monkeypatch)
    raw = CIFAR10(str(tmp_path)).load()
    assert raw.train.images.shape == (5 * PER_BATCH, 3, 32, 32)
    assert raw.test.images.shape == (PER_BATCH, 3, 32, 32)

    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.CIFAR10, "_load_meta", lambda self: None)
    for split, is_train in ((raw.train, True), (raw.test, False)):
        theirs = datasets.CIFAR10(str(tmp_path), train=is_train)
        assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy(), theirs.data)
        assert split.labels.tolist() == theirs.targets


def test_the_real_archive_is_torchvisions():
    [file] = CIFAR10.files
    assert (file.stored, file.md5) == (datasets.CIFAR10.filename, datasets.CIFAR10.tgz_md5)


def test_the_archive_is_downloaded_once_and_checked(tmp_path, monkeypatch):
    content = archive()
    served, root = tmp_path / "served", tmp_path / "root"
    served.mkdir()
    root.mkdir()
    install(content, served, monkeypatch)
    url = (served / "cifar-10-python.tar.gz").as_uri()
    monkeypatch.setattr(datasets.CIFAR10, "url", url)
    assert "served" in CIFAR10(str(root)).prepare()
    shutil.rmtree(served)
    assert len(CIFAR10(str(root)).load().train) == 5 * PER_BATCH

    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "cifar-10-python.tar.gz").write_bytes(content[:-9])
    monkeypatch.setattr(CIFAR10, "providers", ())
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz missing, .*use data=mini"):
        CIFAR10(str(damaged)).load()
    assert (damaged / "cifar-10-python.tar.gz").read_bytes() == content[:-9]
    assert cifar.CIFAR10.paths(CIFAR10(str(root))) == [root / "cifar-10-python.tar.gz"]
