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
import math
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from cli import WIDTH, Parser, UserError, run

import artifacts
from artifacts import AblationRow, BenchRow, Config, Mark, RecipeRow
from storage import existing, read_table, replacing

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = (
    *("RESULTS", "RECIPES", "ABLATION", "PLOTS", "TILE_GALLERY", "VISUALIZATION", "RF"),
    *("MODEL_SUMMARY", "BENCH"),
)


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Put the results of a run into the README, between its markers.")
    parser.add_argument("--results", metavar="DIR", type=Path, default=Path("results"))
    parser.add_argument("--readme", metavar="FILE", type=Path, default=Path("README.md"))
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the README is out of date"
    )
    return parser.parse_args()


if __name__ == "__main__":
    run(parse_arguments)  # main does it again: mistakes are told before these slow imports

import constraints
from model import Net, count_parameters, summary_text


def main() -> None:
    args = parse_arguments()
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
        "TILE_GALLERY": tile_gallery(link, tiles),
        "VISUALIZATION": visualization(link),
        "RF": constraints.tally_markdown(net),
        "MODEL_SUMMARY": model_summary(net),
        **evidence_blocks(results),
    }


def evidence_blocks(results: Path) -> dict[str, str]:
    """The blocks that are no part of a run: those whose file lies in the folder."""
    tables = {
        "RECIPES": (artifacts.RECIPES, recipes_table),
        "ABLATION": (artifacts.ABLATION, ablation_table),
        "BENCH": (artifacts.BENCH, bench_table),
    }
    return {
        name: table(results) for name, (file, table) in tables.items() if (results / file).is_file()
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
        "Last train accuracy": f"{log.train_acc[last]:.2f} % (as augmented)",
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


def as_cell(text: str) -> str:
    """`text` as it is in a Markdown table's cell, whatever names it contains."""
    return html.escape(text, quote=False).replace("|", "&#124;").replace("\n", " ")


def recipes_table(results: Path) -> str:
    """What record.py gathered, the runs of one recipe in a row, beside what others reached."""
    lines = [
        "| network | parameters | mult-adds | constraints kept | epochs | top-1, last epoch "
        "| best epoch | runs |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    runs = read_table(results / artifacts.RECIPES, RecipeRow)
    runs["recipe"] = [RecipeRow(**row).recipe for row in runs.to_dict("records")]
    for _, group in runs.groupby(["recipe", "params", "dataset"], sort=False):
        run = group.iloc[0]
        model = run.model if run.dataset == "cifar10" else f"{run.model}, on {run.dataset}"
        lines.append(
            f"| **{as_cell(model)}** | {run.params:,} | {run.mult_adds / 1e6:.1f} M "
            f"| {'yes' if run.params < constraints.MAX_PARAMETERS else 'no'} | {run.epochs} "
            f"| **{mean_and_spread(group.test_acc)}** | {group.best_test_acc.mean():.2f} "
            f"| {len(group)} |"
        )
    if (results / artifacts.MARKS).is_file():
        for mark in read_table(results / artifacts.MARKS, Mark).itertuples():
            who = as_cell(str(mark.who))
            who = f"[{who}]({mark.source})" if ":" in str(mark.source) else who
            lines.append(
                f"| {who} | {mark.params:,} | {mark.mult_adds} | {mark.constraints_kept} "
                f"| {mark.epochs} | {mark.test_acc:g} | | |"
            )
    return "\n".join(lines)


def ablation_table(results: Path) -> str:
    """What ablation.py measured: each change against the same seeds without one."""
    same_run = ["change", "epochs", "seed", "dataset"]
    runs = read_table(results / artifacts.ABLATION, AblationRow).drop_duplicates(same_run)
    unchanged = runs[runs.change == artifacts.UNCHANGED].set_index(same_run[1:]).val_acc
    runs = runs.join(unchanged.rename("unchanged"), on=same_run[1:])
    lines = [
        "| change | epochs | held-out accuracy | against the recipe | with flips averaged "
        "| held-out loss | runs |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (change, epochs, _), group in runs.groupby(["change", "epochs", "dataset"], sort=False):
        gain = (group.val_acc - group.unchanged).mean()
        lines.append(
            f"| {as_cell(change)} | {epochs} | {mean_and_spread(group.val_acc)} "
            f"| {'' if math.isnan(gain) else f'{gain:+.2f}'} "
            f"| {group.val_acc_flipped.mean():.2f} | {group.val_loss.mean():.4f} | {len(group)} |"
        )
    return "\n".join(lines)


def mean_and_spread(values: pd.Series) -> str:
    """ "88.25 +- 0.12", the spread being the standard deviation of the runs, if there are two."""
    spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread}"


def plot_table(link: Linker) -> str:
    accuracy = link(artifacts.ACCURACY_CURVES, "Accuracy by epoch", 420)
    loss = link(artifacts.LOSS_CURVES, "Loss by epoch", 420)
    confusion = link(artifacts.CONFUSION_PLOT, "Confusion matrix", 420)
    return f"{accuracy} {loss}\n\n{confusion}"


def tile_gallery(link: Linker, tiles: dict[str, list[tuple[str, str]]]) -> str:
    tables = []
    for title, row in tiles.items():
        names, images = zip(*row, strict=True)
        rule = "|".join([":---:"] * len(names))
        tables.append(f"{title}:\n\n|{'|'.join(names)}|\n|{rule}|\n|{'|'.join(images)}|")
    grids = (
        link(artifacts.TEST_GRID, "More of them, with the network's mistakes in red", 640),
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


def bench_table(results: Path) -> str:
    """What bench.py measured."""
    table = read_table(results / artifacts.BENCH, BenchRow)
    lines = [
        "| mode | images/s | slowest to fastest round | of the ceiling | x plain | peak memory |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {as_cell(str(row.mode))} | {row.images_per_second:,.0f} "
        f"| {row.slowest:,.0f} to {row.fastest:,.0f} | {row.share_of_ceiling:.2f} "
        f"| {row.ratio_to_plain:.2f} | {row.peak_memory_mb:,.0f} MB |"
        for row in table.itertuples()
    ]
    first = table.iloc[0]
    return "\n".join([*lines, "", f"`{first.command}` on {as_cell(str(first.device))}."])


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
