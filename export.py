"""Writes a trained network as an ONNX file, and a web page that runs it.

    python export.py                                       # results/best.pt -> results/net.onnx
    python export.py --int8 --dataset cifar10              # and an int8 one beside it
    python export.py --page site                           # and a folder for any web server

The file takes images uint8 (batch, 3, 32, 32) RGB, 0 to 255, and returns logits: normalisation is
inside, the class names are in its metadata ("classes", a JSON list). Before it is kept it is
compared with PyTorch, on the test images of --dataset or else on random ones. Needs
requirements-export.txt.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from console.errors import UserError, run
from console.files import check_writable, replacing
from console.flags import parse, setting
from inputs.sources import DATASET_HELP, DataFlags, parse_dataset
from recipe import IMAGE_SIZE
from records import names

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from inputs.image_data import ImageData

RANDOM_IMAGES = 500
CALIBRATION_IMAGES = 1000
TOLERANCE = 1e-3  # between logits of PyTorch and onnxruntime, which sum in another order


def read_address(text: str) -> str:
    """An address that a link may have."""
    if not text.startswith(("https://", "http://")):
        raise ValueError(f"needs an address that starts with https:// or http://, not {text!r}")
    return text


@dataclass(frozen=True)
class Options(names.CheckpointFlag, DataFlags):
    """options"""

    dataset: str | None = setting(None, DATASET_HELP, parse_dataset, metavar="SOURCE")
    out: Path | None = setting(
        None,
        f"file to write (default: {names.ONNX} beside the checkpoint)",
        Path,
        metavar="FILE.onnx",
    )
    int8: bool = setting(
        False, "also write FILE.int8.onnx with 8-bit integers, calibrated on training images"
    )
    page: Path | None = setting(
        None,
        "also write a folder with the page in demo/, the network and onnxruntime-web",
        Path,
        metavar="DIR",
    )
    repository: str | None = setting(
        None, "the page links to this address", read_address, metavar="URL"
    )


def check_flags(options: Options, out: Path) -> None:
    if out.suffix != ".onnx":
        raise UserError(
            f"argument --out: needs a name that ends in .onnx, not {str(out)!r}", status=2
        )
    if options.int8 and not options.dataset:
        raise UserError(
            "--int8 needs --dataset, whose training images it is calibrated on", status=2
        )
    if options.repository and not options.page:
        raise UserError(
            "--repository needs --page, the folder of the page that links to it", status=2
        )
    check_writable(out.parent)
    if options.page:
        check_writable(options.page, "--page")


def main() -> None:
    options = parse("Write a trained network as an ONNX file, compared with PyTorch.", Options)
    out = options.out or options.checkpoint.parent / names.ONNX
    check_flags(options, out)

    from data import load
    from records.onnx_file import onnx_bytes, onnx_logits
    from records.trained_net import TrainedNet
    from report.page import check_page_folder, page_facts, write_page

    if options.page:
        check_page_folder(options.page)
    net = TrainedNet(options.checkpoint)
    facts = page_facts(net, options.checkpoint.parent, options.repository) if options.page else {}
    data = load(options.dataset, options.data_dir) if options.dataset else None
    if data:
        data.check_classes(net.classes, options.checkpoint)
    images, labels, compared = comparison_images(data)
    logits = net.logits(images).numpy()

    onnx = onnx_bytes(net)
    exported = onnx_logits(onnx, images)
    difference = abs(exported - logits).max()
    if not difference <= TOLERANCE:  # true for NaN as well
        raise UserError(f"the exported network's logits differ by {difference:.2g}; not kept")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as path:
        path.write_bytes(onnx)
    print(
        f"{out}, {len(onnx) / 1000:.0f} kB: on {compared} its logits differ "
        f"from PyTorch's by at most {difference:.1g}; {figures(exported, logits, labels)}"
    )
    if options.int8:
        int8 = write_int8(out, data)
        size = f"{int8.stat().st_size / 1000:.0f} kB"
        print(f"{int8}, {size}: {figures(onnx_logits(int8, images), logits, labels)}")
    if options.page:
        size = f"{write_page(options.page, out, facts) / 1e6:.1f} MB"
        server = f"python -m http.server --directory {shlex.quote(str(options.page))}"
        print(f"{options.page}, {size}: {server}, then open http://localhost:8000/")


def comparison_images(data: ImageData | None) -> tuple[Tensor, np.ndarray | None, str]:
    """Images uint8 (N, 3, 32, 32) to compare two networks on, their labels, and what they are."""
    import numpy as np

    from data import as_tensor

    if data:
        count = f"{len(data.test_labels):,}"
        images = as_tensor(data.test_images).contiguous()
        kind = names.SPLITS[data.split]
        return images, data.test_labels, f"{count} {kind} images of {data.name}"
    shape = (RANDOM_IMAGES, IMAGE_SIZE, IMAGE_SIZE, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return as_tensor(images).contiguous(), None, f"{RANDOM_IMAGES} random images"


def write_int8(onnx: Path, data: ImageData) -> Path:
    """Writes the int8 file beside `onnx`, calibrated on training images; returns its path."""
    from data import as_tensor
    from inputs.image_data import limit_training_set
    from records.onnx_file import write_int8_onnx

    out = onnx.with_suffix(".int8.onnx")
    images = limit_training_set(data, CALIBRATION_IMAGES).train_images
    with replacing(out) as path:
        write_int8_onnx(onnx, path, as_tensor(images).contiguous())
    return out


def figures(exported: np.ndarray, logits: np.ndarray, labels: np.ndarray | None) -> str:
    """How often two networks' logits (N, classes) agree, and the exported one's accuracy."""
    predictions = exported.argmax(1)
    text = f"the class is PyTorch's on {100 * (predictions == logits.argmax(1)).mean():.2f} %"
    if labels is None:
        return text
    return f"{text}, top-1 accuracy {100 * (predictions == labels).mean():.2f} %"


if __name__ == "__main__":
    run(main)
