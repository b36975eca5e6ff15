"""Puts what a run left in its results folder into the README, between markers.

    python update_readme.py                              # results/ -> README.md
    python update_readme.py --results results/digits     # another run
    python update_readme.py --check                      # exit 1 if README.md is out of date

A block stands between `<!-- NAME -->` and `<!-- /NAME -->`; the rest of the README is kept byte
for byte. Neither the data set nor a GPU is needed.
"""

from __future__ import annotations

import argparse
import html
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from cli import WIDTH, Parser, UserError, run

import artifacts
import evidence
from artifacts import ClassRow, Config
from evidence import as_cell
from storage import existing, read_table, replacing

if TYPE_CHECKING:
    pass

BLOCKS = (
    *("RESULTS", "RECIPES", "ABLATION", "PLOTS", "CLASSES", "TILE_GALLERY", "VISUALIZATION"),
    *("RF", "MODEL_SUMMARY", "BENCH"),
)


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Put the results of a run into the README, between its markers.")
    parser.add_argument("--results", metavar="DIR", type=Path, default=Path("results"))
    parser.add_argument("--readme", metavar="FILE", type=Path, default=Path("README.md"))
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the README is out of date"
    )
    parser.add_argument(
        "--compare", metavar="DIR", type=Path, nargs="+",
        help="print a table of the runs in these folders and draw their curves; no README",
    )  # fmt: skip
    args = parser.parse_args()
    if args.check and args.compare:
        parser.error("--check and --compare do not go together")
    return args


if __name__ == "__main__":
    run(parse_arguments)  # main does it again: mistakes are told before these slow imports

import constraints
import plots
from model import Net, count_parameters, summary_text


def main() -> None:
    args = parse_arguments()
    if args.compare:
        print(compare(args.compare, args.results / artifacts.COMPARISON))
        return
    readme = args.readme.resolve()  # a link's target is rewritten, not the link replaced
    try:
        before = readme.read_bytes()
    except OSError as error:
        raise UserError(f"--readme {args.readme}: {error.strerror}") from error
    find_blocks(before, args.readme)  # before the work, so that a bad README is told of at once
    after = inject(before, build_blocks(args.results, readme.parent), args.readme)
    if args.check:
        if after != before:
            raise UserError(f"{args.readme} is out of date; run python update_readme.py")
        print(f"{args.readme} is up to date")
    elif after == before:
        print(f"{args.readme} was up to date already")
    else:
        with replacing(readme) as beside:
            beside.write_bytes(after)
            shutil.copymode(readme, beside)
        print(f"{args.readme} now shows the run in {args.results}")


def compare(runs: list[Path], picture: Path) -> str:
    """A table of the runs in these folders; their accuracies by epoch are drawn at `picture`."""
    lines = [
        "| run | parameters | epochs | last accuracy | best accuracy | on | time | command |",
        "|---|---:|---:|---:|---:|---|---:|---|",
    ]
    logs = {}
    for folder in dict.fromkeys(runs):
        config, log = artifacts.read_config(folder), artifacts.read_log(folder)
        name = artifacts.evaluated(log)
        accuracy, logs[str(folder)] = log[f"{name}_acc"], log
        lines.append(
            f"| {as_cell(str(folder))} | {config.parameters:,} | {len(log)} "
            f"| {accuracy.iloc[-1]:.2f} % | {accuracy.max():.2f} % | {artifacts.EVALUATED[name]} "
            f"| {log.seconds.sum() / 60:.1f} min | {as_cell(config.command)} |"
        )
    artifacts.check_writable(picture.parent, "--results")
    plots.draw_comparison(logs, picture)
    return "\n".join([*lines, "", f"Their accuracy by epoch is drawn in {picture}."])


def build_blocks(results: Path, readme_folder: Path) -> dict[str, str]:
    """The Markdown of every block that the folder has something for, by name.

    Links are relative to `readme_folder`.

    Raises:
        UserError: a file of the run is missing or broken.
    """
    config = artifacts.read_config(results)
    link = Linker(results, readme_folder)
    for name in (artifacts.BEST, artifacts.CONFUSION_MATRIX):
        existing(results / name)
    try:
        width = WIDTH(str(config.flags["width"]))
        drawn = min(artifacts.TILES, int(config.flags["batch_size"]))
    except (LookupError, TypeError, ValueError, argparse.ArgumentTypeError) as error:
        raise UserError(f"{results / artifacts.CONFIG}: unusable flags: {error}") from error
    kind = artifacts.EVALUATED[artifacts.evaluated(artifacts.read_log(results))].capitalize()
    tiles = {
        f"{kind} images": link.tiles(
            artifacts.TEST_TILES, min(artifacts.TILES, config.test_images)
        ),
        "Training images, augmented": link.tiles(artifacts.AUGMENTED_TILES, drawn),
    }
    net = Net(len(config.classes), width)
    return {
        "RESULTS": results_table(results, config),
        "PLOTS": plot_table(link),
        "CLASSES": class_table(results),
        "TILE_GALLERY": tile_gallery(link, tiles),
        "VISUALIZATION": visualization(link),
        "RF": constraints.tally_markdown(net),
        "MODEL_SUMMARY": model_summary(net),
        **evidence.blocks(results),
    }


class Linker:
    """Turns a file of the run into an image link that works in the README."""

    def __init__(self, results: Path, readme_folder: Path):
        self.results, self.readme_folder = results, readme_folder

    def __call__(self, name: Path, alt: str, width: int | None = None) -> str:
        """An `<img>` of the picture `name` of the run; UserError if it is missing."""
        path = existing(self.results / name).resolve()
        url = quote(Path(os.path.relpath(path, self.readme_folder)).as_posix())
        size = f' width="{width}"' if width else ""
        return f'<img src="{url}" alt="{html.escape(alt)}"{size}>'

    def tiles(self, folder: Path, count: int) -> list[tuple[str, str]]:
        """(class name, `<img>`) of each tile in `folder`, in order; UserError if some are gone."""
        names = sorted(path.name for path in (self.results / folder).glob("img_*.png"))
        if len(names) < count:
            raise UserError(
                f"{self.results / folder} has {len(names)} tiles of {count}; train.py writes them"
            )
        return [(name[7:-4], self(folder / name, name[7:-4], 96)) for name in names]


def results_table(results: Path, config: Config) -> str:
    log = artifacts.read_log(results)
    name = artifacts.evaluated(log)
    kind, accuracy, loss = artifacts.EVALUATED[name], log[f"{name}_acc"], log[f"{name}_loss"]
    last, best, lowest = len(log) - 1, accuracy.idxmax(), loss.idxmin()
    minutes = log.seconds.sum() / 60
    rows = {
        f"Latest {kind} accuracy": f"**{accuracy[last]:.2f} %** (epoch {log.epoch[last]})",
        f"Best {kind} accuracy": f"{accuracy[best]:.2f} % (epoch {log.epoch[best]})",
        f"Best {kind} loss": f"{loss[lowest]:.4f} (epoch {log.epoch[lowest]})",
        "Last train accuracy": f"{log.train_acc[last]:.2f} % (on augmented images)",
        "Last train loss": f"{log.train_loss[last]:.4f}",
        "Parameters": f"{config.parameters:,}",
        "Data set": f"{config.dataset}: {config.train_images:,} training and "
        f"{config.test_images:,} {kind} images, {len(config.classes)} classes",
        "Device": config.device,
        "Training time": f"{minutes:.1f} min for {len(log)} epochs",
        "Command": config.command,
        "Updated": config.updated,
    }
    lines = [f"| {name} | {as_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def plot_table(link: Linker) -> str:
    accuracy = link(artifacts.ACCURACY_CURVES, "Accuracy by epoch", 420)
    loss = link(artifacts.LOSS_CURVES, "Loss by epoch", 420)
    confusion = link(artifacts.CONFUSION_PLOT, "Confusion matrix", 420)
    return f"{accuracy} {loss}\n\n{confusion}"


def class_table(results: Path) -> str:
    table = read_table(results / artifacts.CLASS_REPORT, ClassRow)
    lines = ["| class | precision | recall | F1 | images |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {as_cell(str(row['name']))} | {row['precision']:.1f} % | {row['recall']:.1f} % "
        f"| {row['f1']:.1f} % | {row['images']:,} |"
        for row in table.to_dict("records")
    ]
    return "\n".join(lines)


def tile_gallery(link: Linker, tiles: dict[str, list[tuple[str, str]]]) -> str:
    tables = []
    for title, row in tiles.items():
        names, images = zip(*row, strict=True)
        rule = "|".join([":---:"] * len(names))
        tables.append(f"{title}:\n\n|{'|'.join(names)}|\n|{rule}|\n|{'|'.join(images)}|")
    grids = (
        link(artifacts.TEST_GRID, "More of them, with the network's mistakes in red", 640),
        link(artifacts.MISTAKES_GRID, "The network's surest mistakes", 640),
        link(artifacts.AUGMENTED_GRID, "Augmented training images", 640),
    )
    return "\n\n".join([*tables, *grids])


def visualization(link: Linker) -> str:
    text = (
        "See what the augmentation does to the images before you train on them:\n\n"
        "```bash\npython visualize_augmentations.py --save results/plots/aug_demo.png\n```\n"
    )
    if (link.results / artifacts.AUGMENTATION_DEMO).is_file():
        text += "\n" + link(artifacts.AUGMENTATION_DEMO, "Originals and augmented versions", 640)
    return text


def model_summary(net: Net) -> str:
    return (
        f"<details>\n<summary>{count_parameters(net):,} trainable parameters, layer by layer"
        f"</summary>\n\n```text\n{summary_text(net)}\n```\n\n</details>"
    )


def find_blocks(readme: bytes, path: Path) -> dict[str, tuple[int, int]]:
    """Where the content of each block begins and ends in `readme`.

    Raises:
        UserError: a marker is missing, doubled or unclosed, or two blocks cross.
    """
    spans = {}
    for name in BLOCKS:
        opening, closing = f"<!-- {name} -->".encode(), f"<!-- /{name} -->".encode()
        for marker in (opening, closing):
            found = readme.count(marker)
            if found != 1:
                problem = "missing" if found == 0 else f"there {found} times"
                raise UserError(f"{path}: the marker {marker.decode()} is {problem}; needs one")
        spans[name] = readme.index(opening) + len(opening), readme.index(closing)
        if spans[name][0] > spans[name][1]:
            raise UserError(f"{path}: {closing.decode()} stands before {opening.decode()}")
    in_order = sorted(spans, key=spans.get)
    for first, second in pairwise(in_order):
        if spans[second][0] <= spans[first][1]:  # a marker lies between, unless they cross
            raise UserError(f"{path}: the blocks {first} and {second} cross")
    return spans


def inject(readme: bytes, blocks: dict[str, str], path: Path) -> bytes:
    """`readme` with the content of `blocks` replaced, in the line endings that it uses."""
    newline = b"\r\n" if b"\r\n" in readme else b"\n"
    spans = find_blocks(readme, path)
    for name in sorted(blocks, key=spans.get, reverse=True):
        start, end = spans[name]
        content = f"\n{blocks[name].strip()}\n".encode().replace(b"\n", newline)
        readme = readme[:start] + content + readme[end:]
    return readme


if __name__ == "__main__":
    run(main)
