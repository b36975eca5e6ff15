"""The sources of images that --dataset can name, in one table.

A source is a module of this folder with a function `load(dataset, data_dir)` that returns an
`image_data.ImageData`, and a row of SOURCES, from which the flag, its help and its errors are
made. The module is imported when its source is used, since the libraries in it take seconds.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from console.errors import UserError
from console.flags import a_path, in_repository


@dataclass(frozen=True)
class Source:
    """A kind of --dataset."""

    module: str  # in inputs/
    name: str  # for the help and for errors
    description: str
    matches: Callable[[str], bool]  # whether a value of --dataset is of this kind


SOURCES = (
    Source("cifar10", "cifar10", "downloaded to --data-dir if needed", "cifar10".__eq__),
    Source("digits", "digits", "of scikit-learn, needs no download", "digits".__eq__),
    Source(
        "npz",
        "an .npz file",
        "with the keys of MedMNIST",
        lambda text: text.endswith(".npz") and Path(text).is_file(),
    ),
    Source(
        "folder",
        "a folder",
        "with images in train/CLASS/ and test/CLASS/, or in CLASS/",
        os.path.isdir,
    ),
)


DATA_DIR = in_repository("data")


def add_data_flags(group, default: str | None = "cifar10") -> None:
    """The flags that choose the images, for every script that loads some."""
    kinds = "; ".join(f"{source.name} ({source.description})" for source in SOURCES)
    group.add_argument(
        "--dataset", metavar="SOURCE", type=dataset_name, default=default, help=kinds
    )
    group.add_argument(
        "--data-dir", metavar="DIR", type=a_path, default=DATA_DIR,
        help="folder of CIFAR-10's files, and of the 32x32 copies of image folders",
    )  # fmt: skip


def source_of(dataset: str) -> Source:
    """The row of SOURCES that `dataset`, a value of --dataset, matches; else UserError."""
    for source in SOURCES:
        if source.matches(dataset):
            return source
    if not Path(dataset).exists() and (Path(dataset).suffix or os.sep in dataset):
        raise UserError(f"there is no file or folder {dataset}")
    kinds = ", ".join(source.name for source in SOURCES)
    raise UserError(f"{dataset!r} is none of these: {kinds}")


def unambiguous_name(name: str, fingerprint: str) -> str:
    """The name of a data set in evidence; that of a folder or file with a part of its fingerprint.

    Two folders or files of the same name can have different images. A file cifar10.npz counts as
    the data set cifar10.
    """
    is_built_in = name in [source.name for source in SOURCES]
    return name if is_built_in else f"{name} ({fingerprint[:6]})"


def dataset_name(text: str) -> str:
    """An argparse type: a value of --dataset."""
    try:
        source_of(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
