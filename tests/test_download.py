"""CIFAR-10 from mirrors: real HTTP servers on loopback, and a miniature archive.

The addresses of the mirrors, torchvision's checksums and the time without data after which a mirror
is given up are replaced: they are data that no flag sets.
"""

import hashlib
import http.server
import multiprocessing
import pickle
import shutil
import socket
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from runs import run_script
from torchvision.datasets import CIFAR10

from console.errors import UserError
from data import load
from inputs import cifar10

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A miniature cifar-10-python.tar.gz: 20 images a batch."""
    folder = tmp_path_factory.mktemp("mini") / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        batch = {"data": pixels, "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}))
    path = folder.with_name(CIFAR10.filename)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, CIFAR10.base_folder)
    return path


@pytest.fixture
def miniature(archive, monkeypatch):
    """Has torchvision and the download expect the miniature archive's checksums."""

    def md5(path):
        return hashlib.md5(path.read_bytes()).hexdigest()

    folder = archive.with_name(CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    for files in ("train_list", "test_list"):
        sums = [[name, md5(folder / name)] for name, _ in getattr(CIFAR10, files)]
        monkeypatch.setattr(CIFAR10, files, sums)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    monkeypatch.setattr(cifar10, "STALL_SECONDS", 0.5)
    return archive


@pytest.fixture
def server(miniature):
    """The address of a server whose paths fail each in a way of their own."""
    body = miniature.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/missing":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.path == "/whole":
                self.wfile.write(body)
            elif self.path == "/tampered":
                self.wfile.write(body[:-1] + bytes([body[-1] ^ 1]))
            elif self.path == "/truncated":
                self.wfile.write(body[: len(body) // 2])
            elif self.path == "/stalled":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(3)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


FAILURES = {
    "/missing": "answered 404",
    "/tampered": "wrong md5",
    "/truncated": "broke off before the end",
    "/stalled": "sent nothing for 0.5 s",
}


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != cifar10.LOCK)


def test_download_and_load(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "MIRRORS", (f"{server}/whole",))
    data = load("cifar10", tmp_path / "new")
    assert data.train_images.shape == (100, 32, 32, 3)
    assert data.test_images.shape == (20, 32, 32, 3)
    assert list(data.classes) == NAMES
    assert left_in(tmp_path / "new") == [CIFAR10.base_folder, CIFAR10.filename]

    monkeypatch.setattr(cifar10, "MIRRORS", ())  # the second time nothing is downloaded
    assert load("cifar10", tmp_path / "new").fingerprint == data.fingerprint


def test_two_first_starts_at_once_download_once(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cifar10, "MIRRORS", (f"{server}/whole",))
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: load("cifar10", tmp_path / "new"), range(2))
    assert one.fingerprint == other.fingerprint
    assert capsys.readouterr().err.count("downloading") == 1


def test_failing_mirrors_give_way_to_the_next(server, miniature, tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/whole"
    failing = [*(server + path for path in FAILURES), nobody]
    reasons = [*FAILURES.values(), "cannot be reached"]
    monkeypatch.setattr(cifar10, "MIRRORS", failing)
    with pytest.raises(UserError) as error:
        load("cifar10", tmp_path)
    message = str(error.value)
    for address, reason in zip(failing, reasons, strict=True):
        (line,) = [line for line in message.splitlines() if address in line]
        assert reason in line
    for way_out in (str(tmp_path / CIFAR10.filename), "--dataset PATH", "--dataset digits"):
        assert way_out in message
    assert left_in(tmp_path) == []  # nothing that could be mistaken for the archive

    monkeypatch.setattr(cifar10, "MIRRORS", (*failing, f"{server}/whole"))
    assert len(load("cifar10", tmp_path).train_labels) == 100
    assert (tmp_path / CIFAR10.filename).read_bytes() == miniature.read_bytes()
    printed = capsys.readouterr().err
    assert all(printed.count(reason) == 2 for reason in reasons)


def test_an_archive_put_there_by_hand_is_used(miniature, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "MIRRORS", ())
    shutil.copy(miniature, tmp_path)
    assert len(load("cifar10", tmp_path).train_labels) == 100


def test_damaged_files_are_refused_and_kept(miniature, tmp_path):
    archive, out = tmp_path / CIFAR10.filename, tmp_path / "out"
    archive.write_bytes(miniature.read_bytes()[:-10])
    outcome = run_script("train", "--data-dir", tmp_path, "--out", out)
    outcome.assert_refused(str(archive), "md5")
    assert archive.stat().st_size == miniature.stat().st_size - 10

    whole = miniature.with_name(CIFAR10.base_folder)
    extracted = shutil.copytree(whole, tmp_path / whole.name)
    with (extracted / "data_batch_3").open("ab") as file:
        file.write(b"more")
    outcome = run_script("train", "--data-dir", tmp_path, "--out", out)
    outcome.assert_refused(str(extracted), "damaged")


@pytest.mark.parametrize("how", ["..", "link"])
def test_an_archive_that_points_outside_writes_nothing_there(how, tmp_path, monkeypatch):
    archive = tmp_path / "data" / CIFAR10.filename
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("../escaped" if how == ".." else f"{CIFAR10.base_folder}/link")
        if how == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "../../../escaped"
        tar.addfile(member)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    outcome = run_script("train", "--data-dir", archive.parent, "--out", tmp_path / "out")
    outcome.assert_refused(str(archive.parent))
    assert not (tmp_path / "escaped").exists()
    assert left_in(archive.parent) == [archive.name]


def stall_while_unpacking(folder: Path, unpacking) -> None:
    def extractall(_tar, path, **_):
        Path(path, "half").mkdir(parents=True)
        unpacking.set()
        time.sleep(60)

    tarfile.TarFile.extractall = extractall
    load("cifar10", folder)


def test_what_a_killed_start_leaves_is_removed_by_the_next(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "MIRRORS", (f"{server}/whole",))
    fork = multiprocessing.get_context("fork")
    unpacking = fork.Event()
    process = fork.Process(target=stall_while_unpacking, args=(tmp_path, unpacking))
    process.start()
    assert unpacking.wait(60)
    process.kill()
    process.join()
    assert left_in(tmp_path) == sorted([CIFAR10.filename, cifar10.UNFINISHED])
    load("cifar10", tmp_path)
    assert left_in(tmp_path) == [CIFAR10.base_folder, CIFAR10.filename]
