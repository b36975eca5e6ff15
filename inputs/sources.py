"""The sources of images that --dataset can name, in one table.

A source is a module of this folder with a function `load(dataset, data_dir)` that returns an
`image_data.ImageData`, and a row of SOURCES, from which the flag, its help and its errors are
made. The module is imported when its source is used, since the libraries in it take seconds.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from console.errors import UserError
from console.files import in_repository
from console.flags import setting


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


def parse_dataset(text: str) -> str:
    """A value of --dataset; ValueError if it is none."""
    try:
        source_of(text)
    except UserError as error:
        raise ValueError(str(error)) from error
    return text


DATASET_HELP = "; ".join(f"{source.name} ({source.description})" for source in SOURCES)


@dataclass(frozen=True)
class DataFlags:
    """The flags that choose the images, for every script that loads some."""

    dataset: str = setting("cifar10", DATASET_HELP, parse_dataset, metavar="SOURCE")
    data_dir: Path = setting(
        DATA_DIR,
        "folder of CIFAR-10's files, and of the 32x32 copies of image folders",
        metavar="DIR",
    )


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
