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

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from console.errors import UserError, run
from console.flags import Parser, a_path
from inputs.sources import add_data_flags
from recipe import IMAGE_SIZE
from records import names
from records.files import check_writable, replacing

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from inputs.image_data import ImageData

RANDOM_IMAGES = 500
CALIBRATION_IMAGES = 1000
TOLERANCE = 1e-3  # between logits of PyTorch and onnxruntime, which sum in another order


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Write a trained network as an ONNX file, compared with PyTorch.")
    parser.add_argument(
        "--checkpoint", metavar="FILE.pt", type=a_path, default=names.RESULTS / names.BEST,
        help="the trained network",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FILE.onnx", type=a_path,
        help=f"file to write (default: {names.ONNX} beside the checkpoint)",
    )  # fmt: skip
    parser.add_argument(
        "--int8", action="store_true",
        help="also write FILE.int8.onnx with 8-bit integers, calibrated on training images",
    )  # fmt: skip
    parser.add_argument(
        "--page", metavar="DIR", type=a_path,
        help="also write a folder with the page in demo/, the network and onnxruntime-web "
    )  # fmt: skip
    parser.add_argument(
        "--repository", metavar="URL", type=web_address,
        help="the page links to this address",
    )  # fmt: skip
    add_data_flags(parser, default=None)
    args = parser.parse_args()
    args.out = args.out or args.checkpoint.parent / names.ONNX
    if args.out.suffix != ".onnx":
        parser.error(f"argument --out: needs a name that ends in .onnx, not {str(args.out)!r}")
    if args.int8 and not args.dataset:
        parser.error("--int8 needs --dataset, whose training images it is calibrated on")
    if args.repository and not args.page:
        parser.error("--repository needs --page, the folder of the page that links to it")
    return args


def web_address(text: str) -> str:
    """An argparse type: an address that a link may have."""
    if not text.startswith(("https://", "http://")):
        raise argparse.ArgumentTypeError(
            f"needs an address that starts with https:// or http://, not {text!r}"
        )
    return text


def main() -> None:
    args = parse_arguments()
    check_writable(args.out.parent)

    from data import load
    from records.onnx_file import onnx_bytes, onnx_logits
    from records.trained_net import TrainedNet
    from report.page import check_page_folder, page_facts, write_page

    if args.page:
        check_writable(args.page, "--page")
        check_page_folder(args.page)
    net = TrainedNet(args.checkpoint)
    facts = page_facts(net, args.checkpoint.parent, args.repository) if args.page else {}
    data = load(args.dataset, args.data_dir) if args.dataset else None
    if data:
        data.check_classes(net.classes, args.checkpoint)
    images, labels, compared = comparison_images(data)
    logits = net.logits(images).numpy()

    onnx = onnx_bytes(net)
    exported = onnx_logits(onnx, images)
    difference = abs(exported - logits).max()
    if not difference <= TOLERANCE:  # true for NaN as well
        raise UserError(f"the exported network's logits differ by {difference:.2g}; not kept")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as path:
        path.write_bytes(onnx)
    print(
        f"{args.out}, {len(onnx) / 1000:.0f} kB: on {compared} its logits differ "
        f"from PyTorch's by at most {difference:.1g}; {figures(exported, logits, labels)}"
    )
    if args.int8:
        int8 = write_int8(args.out, data)
        size = f"{int8.stat().st_size / 1000:.0f} kB"
        print(f"{int8}, {size}: {figures(onnx_logits(int8, images), logits, labels)}")
    if args.page:
        size = f"{write_page(args.page, args.out, facts) / 1e6:.1f} MB"
        server = f"python -m http.server --directory {shlex.quote(str(args.page))}"
        print(f"{args.page}, {size}: {server}, then open http://localhost:8000/")


def comparison_images(data: ImageData | None) -> tuple[Tensor, np.ndarray | None, str]:
    """Images uint8 (N, 3, 32, 32) to compare two networks on, their labels, and what they are."""
    import numpy as np

    from data import as_tensor

    if data:
        count = f"{len(data.test_labels):,}"
        images = as_tensor(data.test_images).contiguous()
        kind = names.EVALUATED[data.evaluated]
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
