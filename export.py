"""Writes a trained network as an ONNX file, for onnxruntime and everything else that reads ONNX.

    python export.py                                       # results/best.pt -> results/net.onnx
    python export.py --int8 --dataset cifar10              # and an int8 one beside it

The file takes images uint8 (batch, 3, 32, 32) RGB, 0 to 255, and returns logits: normalisation is
inside, the class names are in its metadata ("classes", a JSON list). Before it is kept it is
compared with PyTorch, on the test images of --dataset or else on random ones. Needs
requirements-export.txt.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from console.errors import UserError, run
from console.flags import Parser
from inputs.sources import add_data_flags
from recipe import IMAGE_SIZE
from records import names
from records.files import check_writable, replacing

if TYPE_CHECKING:
    import numpy as np

RANDOM_IMAGES = 500
CALIBRATION_IMAGES = 1000
TOLERANCE = 1e-3  # between logits of PyTorch and onnxruntime, which sum in another order


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Write a trained network as an ONNX file, compared with PyTorch.")
    parser.add_argument(
        "--checkpoint", metavar="FILE.pt", type=Path, default=names.RESULTS / names.BEST,
        help="the trained network",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FILE.onnx", type=Path, default=names.RESULTS / "net.onnx",
        help="file to write",
    )  # fmt: skip
    parser.add_argument(
        "--int8", action="store_true",
        help="also write FILE.int8.onnx with 8-bit integers, calibrated on training images",
    )  # fmt: skip
    add_data_flags(parser, default=None)
    args = parser.parse_args()
    if args.out.suffix != ".onnx":
        parser.error(f"argument --out: needs a name that ends in .onnx, not {str(args.out)!r}")
    if args.int8 and not args.dataset:
        parser.error("--int8 needs --dataset, whose training images it is calibrated on")
    return args


def main() -> None:
    args = parse_arguments()
    check_writable(args.out.parent)

    import numpy as np
    import torch

    from data import as_tensor, load
    from records.onnx_file import onnx_logits, onnx_model, write_int8_onnx
    from records.trained_net import TrainedNet

    net = TrainedNet(args.checkpoint)
    data = load(args.dataset, args.data_dir) if args.dataset else None
    if data:
        data.check_classes(net.classes, args.checkpoint)
    rng = np.random.default_rng(0)
    if data:
        images, labels = data.test_images, data.test_labels
    else:
        shape = (RANDOM_IMAGES, IMAGE_SIZE, IMAGE_SIZE, 3)
        images, labels = rng.integers(0, 256, shape, dtype=np.uint8), None
    images = as_tensor(images).contiguous()
    with torch.inference_mode():
        logits = torch.cat([net(part) for part in images.split(500)]).numpy()

    model = onnx_model(net)
    exported = onnx_logits(model, images)
    difference = np.abs(exported - logits).max()
    if difference > TOLERANCE:
        raise UserError(f"the exported network's logits differ by {difference:.2g}; not kept")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as path:
        path.write_bytes(model)
    compared = (
        f"{len(images):,} test images of {data.name}" if data else f"{len(images)} random images"
    )
    print(
        f"{args.out}, {args.out.stat().st_size / 1000:.0f} kB: on {compared} its logits differ "
        f"from PyTorch's by at most {difference:.1g}; {figures(exported, logits, labels)}"
    )
    if args.int8:
        out = args.out.with_suffix(".int8.onnx")
        chosen = np.sort(rng.permutation(len(data.train_labels))[:CALIBRATION_IMAGES])
        with replacing(out) as path:
            write_int8_onnx(args.out, path, as_tensor(data.train_images[chosen]).contiguous())
            quantised = onnx_logits(path, images)
        size = f"{out.stat().st_size / 1000:.0f} kB"
        print(f"{out}, {size}: {figures(quantised, logits, labels)}")


def figures(exported: np.ndarray, logits: np.ndarray, labels: np.ndarray | None) -> str:
    """How often two networks' logits (N, classes) agree, and the exported one's accuracy."""
    predictions = exported.argmax(1)
    text = f"the class is PyTorch's on {100 * (predictions == logits.argmax(1)).mean():.2f} %"
    if labels is None:
        return text
    return f"{text}, top-1 accuracy {100 * (predictions == labels).mean():.2f} %"


if __name__ == "__main__":
    run(main)
