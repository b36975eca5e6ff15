"""Tells what is on images, with a trained network.

    python predict.py cat.jpg dog.png                      # the published network, top 3
    python predict.py --checkpoint results/mine/best.pt --top 1 folder/
    curl ... | python predict.py --json -                  # an image's bytes on stdin

Prints a line an image, as text or as JSON. A file that is no image gets a line on stderr, the
others their prediction all the same, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from cli import Parser, add_device_flag, number, run

import artifacts

BATCH = 256  # images at a time; each is 32x32 by then
STDIN = "-"


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Tell what is on images, with a trained network.")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+",
        help="a file that Pillow reads, a folder of them at any depth, or - for bytes on stdin",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", metavar="FILE.pt", type=Path, default=Path("results") / artifacts.BEST
    )
    parser.add_argument(
        "--top", metavar="N", type=number(int, at_least=1), default=3,
        help="classes named of each image, the most probable first",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON object an image")
    add_device_flag(parser)
    args = parser.parse_args()
    if args.images.count(STDIN) > 1:
        parser.error("- stands for one image, and was given twice")
    missing = [name for name in args.images if name != STDIN and not Path(name).exists()]
    if missing:
        parser.error(f"there is no file or folder {missing[0]}")
    return args


if __name__ == "__main__":
    run(parse_arguments)  # main does it again: mistakes are told before these slow imports

import numpy as np
import torch

from data import as_tensor
from images import read_image
from trained import TrainedNet
from trainer import pick_device


@torch.inference_mode()
def main() -> None:
    args = parse_arguments()
    device = pick_device(args.device)
    net = TrainedNet(args.checkpoint).to(device)
    unreadable = 0
    for names, images, refused in batches(args.images):
        for name, reason in refused:
            print(f"predict.py: {name}: {reason}", file=sys.stderr)
        unreadable += len(refused)
        if names:
            probabilities = net(as_tensor(images).to(device)).softmax(1).cpu()
            for name, values in zip(names, probabilities, strict=True):
                print(describe(name, values, net.classes, args), flush=True)
    if unreadable:
        sys.exit(1)


Batch = tuple[list[str], np.ndarray, list[tuple[str, str]]]


def batches(arguments: list[str]) -> Iterator[Batch]:
    """Names, images uint8 (B, 32, 32, 3), and the name and fault of those that are none."""
    names, images, refused = [], [], []
    for name in files(arguments):
        try:
            images.append(read_image(file_of(name)))
            names.append("stdin" if name == STDIN else name)
        except ValueError as error:
            refused.append((name, str(error)))
        if len(names) + len(refused) == BATCH:
            yield names, np.array(images), refused
            names, images, refused = [], [], []
    yield names, np.array(images), refused


def file_of(name: str) -> Path | io.BytesIO:
    if name != STDIN:
        return Path(name)
    if sys.stdin is None:
        raise ValueError("stdin is closed")
    return io.BytesIO(sys.stdin.buffer.read())


def files(arguments: list[str]) -> Iterator[str]:
    """The arguments, with the files below it in place of each folder, by name, hidden ones not.

    A folder without any stands for itself, and is no image.
    """
    for argument in arguments:
        folder = Path(argument)
        if argument == STDIN or not folder.is_dir():
            yield argument
            continue
        found = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(p[0] == "." for p in path.relative_to(folder).parts)
        ]
        yield from map(str, found or [folder])


def describe(
    name: str, probabilities: torch.Tensor, classes: list[str], args: argparse.Namespace
) -> str:
    """The line for an image, from its probabilities (classes,)."""
    values, indices = probabilities.topk(min(args.top, len(classes)))
    top = [(classes[index], value) for index, value in zip(indices, values.tolist(), strict=True)]
    if args.json:
        predictions = [{"class": label, "probability": value} for label, value in top]
        return json.dumps({"image": name, "predictions": predictions}, ensure_ascii=False)
    return f"{name}: " + ", ".join(f"{label} {100 * value:.1f} %" for label, value in top)


if __name__ == "__main__":
    run(main)
