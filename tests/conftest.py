"""What several test files share: small data sets, finished runs, scripts run as a user would."""

from __future__ import annotations

import contextlib
import csv
import gc
import importlib
import io
import os
import signal
import sys
from dataclasses import dataclass, is_dataclass
from itertools import product
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: for batches this small, threads only wait

import numpy as np
import pytest
import torch
from PIL import Image

from console import errors
from inputs.image_data import ImageData
from records import names
from records.checkpoints import load_checkpoint

# a shell's & makes a process ignore Ctrl-C, and with it those that it starts
signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).parent.parent
# names that would break a link, a table or a page if they were not taken care of
CLASSES = ("cat | dog", "<b>bold</b>", "naïve (1)")

# the same for names of folders, which have no slash
HOSTILE_NAMES = (
    "<script>alert(1)<~script>",
    "quote \" onerror='x' `",
    "-->](http:__x) <!-- ",
    "<!-- ~RESULTS -->",
    "$\\frac ünï 中文 🙂",
)


def pytest_collection_finish() -> None:
    """Spares the garbage collector the objects of imported modules, which stay to the end."""
    gc.collect()
    gc.freeze()


def separable_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (count, 32, 32, 3) noise and labels 0, 1, 2, each class bright in a channel."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 128, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % len(CLASSES)
    images[np.arange(count), :, :, labels] += 100
    return images, labels


@pytest.fixture(scope="session")
def small_data() -> ImageData:
    train_images, train_labels = separable_images(96, seed=1)
    test_images, test_labels = separable_images(33, seed=2)
    return ImageData("small", train_images, train_labels, test_images, test_labels, CLASSES)


@pytest.fixture(scope="session")
def small_npz(small_data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "small.npz"
    save_npz(path, small_data)
    return path


def save_npz(path: Path, data: ImageData, **replaced) -> Path:
    """Writes `data` as an .npz file, with the arrays in `replaced` in place of its own."""
    arrays = {name: value for name, value in vars(data).items() if isinstance(value, np.ndarray)}
    np.savez(path, **{**arrays, "classes": np.array(data.classes), **replaced})
    return path


@dataclass
class Outcome:
    status: int
    out: str
    err: str

    def assert_refused(self, *words: str, status: int = 1) -> None:
        """One line on stderr that has all of `words`, and no traceback."""
        assert self.status == status, self.err
        assert len(self.err.strip().splitlines()) == 1, self.err
        for word in words:
            assert word in self.err, self.err


def run_script(name: str, *args: object) -> Outcome:
    """Runs a script, "train" or "experiments.bench", in this process."""
    module = importlib.import_module({"model": "report.model_command"}.get(name, name))
    out, err = io.StringIO(), io.StringIO()
    status, argv = 0, sys.argv
    sys.argv = [f"{name.replace('.', '/')}.py", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            errors.run(module.main)
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        sys.argv = argv
    return Outcome(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def finished_run(small_npz, tmp_path_factory) -> Path:
    """The folder of a run of two epochs; copy it before changing anything in it."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    outcome = train(small_npz, out, "--epochs", 2)
    assert outcome.status == 0, outcome.err
    return out


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory) -> Path:
    """The folder of a run on folders of images that are called HOSTILE_NAMES."""
    root = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    for split, name in product(("train", "test"), HOSTILE_NAMES):
        folder = root / "data" / split / name
        folder.mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    flags = ("--epochs", 1, "--batch-size", 8, "--width", 0.2)
    outcome = run_script("train", "--dataset", root / "data", "--out", root / "out", *flags)
    assert outcome.status == 0, outcome.err
    return root / "out"


TIMES = ("seconds", "images_per_second")


def train(dataset: Path, out: Path, *flags: object) -> Outcome:
    """Trains a narrow network, which is fast, unless `flags` say otherwise."""
    usual = ("--batch-size", 32, "--workers", 0, "--width", 0.5)
    return run_script("train", "--dataset", dataset, "--out", out, *usual, *flags)


def log_without_times(out: Path) -> list[dict]:
    with (out / "train_log.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def assert_same(one, other):
    """Equality of nested dicts, lists and dataclasses, tensors bit for bit; times aside."""
    assert type(one) is type(other)
    if is_dataclass(one):
        one, other = vars(one), vars(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - set(TIMES):
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def assert_same_run(one: Path, other: Path):
    assert log_without_times(one) == log_without_times(other)
    for name in (names.BEST, names.LAST):
        assert_same(*(load_checkpoint(out / name) for out in (one, other)))
    matrices = [(out / names.CONFUSION_MATRIX).read_bytes() for out in (one, other)]
    assert matrices[0] == matrices[1]
