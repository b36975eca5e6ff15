"""CIFAR-10 (Krizhevsky, 2009) from its official archive, which is downloaded if needed."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

from console.errors import UserError
from inputs import download
from inputs.image_data import ImageData


def load(_dataset: str, data_dir: Path) -> ImageData:
    """CIFAR-10 from its official files in `data_dir`, each checked by md5."""
    extracted = data_dir / CIFAR10.base_folder
    archive = data_dir / CIFAR10.filename
    try:
        if not extracted.exists():
            if not archive.exists():
                download.fetch(archive, CIFAR10.tgz_md5)
            elif not check_integrity(str(archive), CIFAR10.tgz_md5):
                raise UserError(
                    f"{archive} is damaged: its md5 is not CIFAR-10's {CIFAR10.tgz_md5}; move it "
                    "away and run again to download it"
                )
            _extract(archive, extracted)
        train, test = CIFAR10(data_dir, train=True), CIFAR10(data_dir, train=False)
    except RuntimeError as error:  # torchvision: a file is missing or fails its md5
        raise UserError(
            f"{extracted} is damaged: a file in it is missing or fails its md5; move the folder "
            f"away and run again to unpack {archive.name} afresh"
        ) from error
    except tarfile.TarError as error:
        raise UserError(f"{archive} cannot be unpacked: {error}; move it away") from error
    except OSError as error:
        raise UserError(f"--data-dir {data_dir}: {error.strerror or error}") from error
    return ImageData(
        "cifar10",
        train.data,
        np.array(train.targets, dtype=np.int64),
        test.data,
        np.array(test.targets, dtype=np.int64),
        tuple(train.classes),
    )


def _extract(archive: Path, folder: Path) -> None:
    """Unpacks `archive` so that `folder`, which it contains, is there whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=archive.parent) as scratch:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        (Path(scratch) / folder.name).rename(folder)
