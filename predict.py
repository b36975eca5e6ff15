"""Classifies images with a trained network.

    python predict.py cat.jpg dog.png                      # the published network, top 3
    python predict.py --checkpoint runs/mine/best.pt --top 1 folder/
    python predict.py --explain explained cat.jpg          # and a picture of where it sees a cat
    curl ... | python predict.py --json -                  # an image's bytes on stdin

Prints one line per image, as text or as JSON. A file that is no image gets a line on stderr
instead; the others are classified all the same, and the exit status is 1. Images become 32x32
pixels as in training: transparent pixels on white, and squashed if they are not square.
"""

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from console.errors import CONTROL_CHARACTERS, UserError, print_error, run
from console.files import check_writable
from console.flags import Device, parse, setting
from recipe import EVALUATION_BATCH
from records.names import CheckpointFlag

STDIN = "-"


@dataclass(frozen=True)
class Options(CheckpointFlag, Device):
    """options"""

    images: Sequence[str] = setting(
        (),
        "an image file, a folder of them at any depth, or - for an image's bytes on stdin",
        str,
        flag="images",
        metavar="IMAGE",
        many=True,
    )
    top: int = setting(
        3, "number of classes to print for each image, the most probable first", at_least=1
    )
    explain: Path | None = setting(
        None,
        "also write a picture of each image with the activation maps of its two most probable "
        "classes; existing files are kept",
        Path,
        metavar="DIR",
    )
    json: bool = setting(False, "print a JSON object per image")


def main() -> None:
    options = parse("Classify images with a trained network.", Options)
    check_flags(options)

    from inputs.image_files import read_image
    from records.trained_net import TrainedNet
    from report.activation_map import draw_explanations
    from training.devices import pick_device

    net = TrainedNet(options.checkpoint).to(pick_device(options.device))
    files, status = list_files(options.images), 0
    while chunk := list(islice(files, EVALUATION_BATCH["cpu"])):
        names, images = [], []
        for name in chunk:
            try:
                stdin = sys.stdin.buffer.read() if name == STDIN and sys.stdin else b""
                images.append(read_image(io.BytesIO(stdin) if name == STDIN else name))
                names.append("stdin" if name == STDIN else name)
            except ValueError as error:
                print_error(f"{make_printable(name)}: {error}")
                status = 1
        if images:
            for name, values in zip(names, net.probabilities(images).tolist(), strict=True):
                print(format_line(name, values, net.classes, options), flush=True)
            if options.explain:
                draw_explanations(net, images, names, options.explain)
    sys.exit(status)


def check_flags(options: Options) -> None:
    if options.images.count(STDIN) > 1:
        raise UserError("- stands for one image, and was given twice", status=2)
    for name in options.images:
        if name != STDIN and not (name and Path(name).exists()):
            raise UserError(f"there is no file or folder {name!r}", status=2)
    if options.explain:
        check_writable(options.explain, "--explain")


def list_files(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments; in place of a folder the files in it and below, without hidden ones.

    A folder without files is listed itself, to be refused as no image.
    """
    from inputs import image_files

    for argument in arguments:
        is_folder = argument != STDIN and Path(argument).is_dir()
        files = image_files.list_files(argument) if is_folder else []
        found = [file.path for file in files if not image_files.is_clutter(file.name)]
        yield from found or [argument]


def format_line(name: str, probabilities: list[float], classes: list[str], options: Options) -> str:
    """The most probable classes of an image, as text or as JSON."""
    top = sorted(zip(classes, probabilities, strict=True), key=lambda pair: -pair[1])[: options.top]
    if options.json:
        predictions = [{"class": label, "probability": value} for label, value in top]
        return json.dumps({"image": name, "predictions": predictions}, ensure_ascii=False)
    figures = ", ".join(f"{label} {100 * value:.1f} %" for label, value in top)
    return f"{make_printable(name)}: {figures}"


def make_printable(name: str) -> str:
    """A file name with "?" for each character that a terminal would obey."""
    return CONTROL_CHARACTERS.sub("?", name)


if __name__ == "__main__":
    run(main)
