"""What several test files do: make small data sets, run scripts as a user would, compare runs."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass, is_dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from console import errors
from constraints import command
from inputs.image_data import ImageData
from records import names
from records.checkpoints import load_checkpoint

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


def separable_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (count, 32, 32, 3) noise and labels 0, 1, 2, each class bright in a channel."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 128, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % len(CLASSES)
    images[np.arange(count), :, :, labels] += 100
    return images, labels


def small_images() -> ImageData:
    train_images, train_labels = separable_images(96, seed=1)
    test_images, test_labels = separable_images(33, seed=2)
    return ImageData("small", train_images, train_labels, test_images, test_labels, CLASSES)


def write_hostile_folders(root: Path) -> None:
    """Writes image folders train/ and test/ with classes that are called HOSTILE_NAMES."""
    rng = np.random.default_rng(0)
    for split, name in product(("train", "test"), HOSTILE_NAMES):
        folder = root / split / name
        folder.mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")


def save_npz(path: Path, data: ImageData, **replaced) -> Path:
    """Writes `data` as an .npz file, with `replaced` arrays, or without one that is None there."""
    arrays = {name: value for name, value in vars(data).items() if isinstance(value, np.ndarray)}
    arrays |= {"classes": np.array(data.classes), **replaced}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
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


def run_python(*args: object, cwd: Path = REPO, **environment: str) -> Outcome:
    """Runs `python args` in a process of its own, with `environment` added to that of this one."""
    command, env = [sys.executable, *map(str, args)], os.environ | environment
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    return Outcome(done.returncode, done.stdout, done.stderr)


def run_code(code: str) -> Outcome:
    return run_python("-c", code)


def run_script(name: str, *args: object) -> Outcome:
    """Runs a script, "train" or "experiments.bench", in this process."""
    module = importlib.import_module(name)
    main = partial(command.main, module.build_network) if name == "model" else module.main
    out, err = io.StringIO(), io.StringIO()
    status, argv = 0, sys.argv
    sys.argv = [f"{name.replace('.', '/')}.py", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            errors.run(main)
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        sys.argv = argv
    return Outcome(status, out.getvalue(), err.getvalue())


TIMES = ("seconds", "images_per_second")


def train(dataset: Path, out: Path, *flags: object) -> Outcome:
    """Trains a narrow network, which is fast, unless `flags` say otherwise."""
    usual = ("--batch-size", 32, "--workers", 0, "--width", 0.5)
    return run_script("train", "--dataset", dataset, "--out", out, *usual, *flags)


def log_without_times(out: Path) -> list[dict]:
    with (out / "train_log.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def read_files(out: Path) -> dict[Path, bytes]:
    """The files of a run by their paths in `out`, without its lock and the archived runs."""
    paths = {path.relative_to(out): path for path in out.rglob("*") if path.is_file()}
    others = {names.ARCHIVE.name, names.LOCK.name}
    return {name: path.read_bytes() for name, path in paths.items() if name.parts[0] not in others}


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
