"""Classifies images with a trained network.

    python predict.py cat.jpg dog.png                      # the published network, top 3
    python predict.py --checkpoint runs/mine/best.pt --top 1 folder/
    python predict.py --explain explained cat.jpg          # and a picture of where it sees a cat
    curl ... | python predict.py --json -                  # an image's bytes on stdin

Prints one line per image, as text or as JSON. A file that is no image gets a line on stderr
instead; the others are classified all the same, and the exit status is 1. Images become 32x32
pixels as in training: transparent pixels on white, and squashed if they are not square.
"""

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from console.errors import CONTROL_CHARACTERS, print_error, run
from console.flags import Parser, a_path, add_device_flag, number
from records import names
from records.files import check_writable

BATCH = 256  # images
STDIN = "-"


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Classify images with a trained network.")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+",
        help="an image file, a folder of them at any depth, or - for an image's bytes on stdin",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", metavar="FILE.pt", type=a_path, default=names.RESULTS / names.BEST,
        help="the trained network",
    )  # fmt: skip
    parser.add_argument(
        "--top", metavar="N", type=number(int, at_least=1), default=3,
        help="number of classes to print for each image, the most probable first",
    )  # fmt: skip
    parser.add_argument(
        "--explain", metavar="DIR", type=a_path,
        help="also write a picture of each image with the class activation maps of its two most "
        "probable classes; existing files are kept",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON object per image")
    add_device_flag(parser)
    args = parser.parse_args()
    if args.images.count(STDIN) > 1:
        parser.error("- stands for one image, and was given twice")
    for name in args.images:
        if name != STDIN and not (name and Path(name).exists()):
            parser.error(f"there is no file or folder {name!r}")
    return args


def main() -> None:
    args = parse_arguments()
    if args.explain:
        check_writable(args.explain, "--explain")

    from inputs.image_files import read_image
    from records.trained_net import TrainedNet
    from training.devices import pick_device

    net = TrainedNet(args.checkpoint).to(pick_device(args.device))
    found, failed = files(args.images), False
    while chunk := list(islice(found, BATCH)):
        readable, images = [], []
        for name in chunk:
            try:
                images.append(read_image(file_of(name)))
                readable.append("stdin" if name == STDIN else name)
            except ValueError as error:
                print_error(f"{printable(name)}: {error}")
                failed = True
        if images:
            for name, values in zip(readable, net.probabilities(images).tolist(), strict=True):
                print(line(name, values, net.classes, args), flush=True)
            if args.explain:
                from report.activation_map import draw_explanations

                draw_explanations(net, images, readable, args.explain)
    if failed:
        sys.exit(1)


def files(arguments: Sequence[str]) -> Iterator[str]:
    """Yields the arguments; replaces each folder by the files in it and below, without hidden ones.

    Yields a folder without files itself, to be refused as no image.
    """
    from inputs.image_files import files_below

    for argument in arguments:
        if argument == STDIN or not Path(argument).is_dir():
            yield argument
        else:
            yield from [file.path for file in files_below(argument)] or [argument]


def file_of(name: str) -> Path | io.BytesIO:
    if name != STDIN:
        return Path(name)
    if sys.stdin is None:
        raise ValueError("stdin is closed")
    return io.BytesIO(sys.stdin.buffer.read())


def line(
    name: str, probabilities: list[float], classes: list[str], args: argparse.Namespace
) -> str:
    """The most probable classes of an image, as text or as JSON."""
    ranked = sorted(zip(classes, probabilities, strict=True), key=lambda pair: -pair[1])
    top = ranked[: args.top]
    if args.json:
        predictions = [{"class": label, "probability": value} for label, value in top]
        return json.dumps({"image": name, "predictions": predictions}, ensure_ascii=False)
    return f"{printable(name)}: " + ", ".join(
        f"{label} {100 * value:.1f} %" for label, value in top
    )


def printable(name: str) -> str:
    """A file name with "?" for each character that a terminal would obey."""
    return CONTROL_CHARACTERS.sub("?", name)


if __name__ == "__main__":
    run(main)
