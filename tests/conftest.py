"""Small data sets and finished runs for all tests.

The fixtures import `runs` when they are used: the process that only hands out the tests needs none
of what that imports.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from inputs.image_data import ImageData

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: for batches this small, threads only wait
# a shell's & makes a process ignore Ctrl-C, and with it those that it starts
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Spares the garbage collector the objects of imported modules, which stay to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def small_data() -> ImageData:
    from runs import small_images

    return small_images()


@pytest.fixture(scope="session")
def small_npz(small_data, tmp_path_factory) -> Path:
    from runs import save_npz

    return save_npz(tmp_path_factory.mktemp("data") / "small.npz", small_data)


@pytest.fixture(scope="session")
def finished_run(small_npz, tmp_path_factory) -> Path:
    """The folder of a run of two epochs; copy it before changing anything in it."""
    from runs import train

    out = tmp_path_factory.mktemp("runs") / "finished"
    outcome = train(small_npz, out, "--epochs", 2)
    assert outcome.status == 0, outcome.err
    return out


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory) -> Path:
    """The folder of a run on folders of images that are called HOSTILE_NAMES."""
    from runs import run_script, write_hostile_folders

    root = tmp_path_factory.mktemp("hostile")
    write_hostile_folders(root / "data")
    flags = ("--epochs", 1, "--batch-size", 8, "--width", 0.2)
    outcome = run_script("train", "--dataset", root / "data", "--out", root / "out", *flags)
    assert outcome.status == 0, outcome.err
    return root / "out"
