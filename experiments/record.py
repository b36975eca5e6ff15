"""Adds finished runs to the evidence: a row each in results/recipes.csv.

    python record.py runs/seed0 runs/seed1 runs/seed2
    python update_readme.py                              # and into the README

A run that is there already, with the same seed and the same other flags, is replaced.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import artifacts
import evidence
from cli import Parser, UserError, run
from evidence import RecipeRow
from storage import read_rows, write_table


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Add finished runs to the evidence, results/recipes.csv.")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="the folder of a run")
    parser.add_argument("--results", metavar="DIR", type=Path, default=Path("results"))
    args = parser.parse_args()
    artifacts.check_writable(args.results, "--results")
    return args


if __name__ == "__main__":
    run(parse_arguments)  # main does it again: mistakes are told before these slow imports

from model import Net, count_mult_adds


def main() -> None:
    args = parse_arguments()
    path = args.results / evidence.RECIPES
    rows = {(row.recipe, row.seed): row for row in read_rows(path, RecipeRow)}
    for folder in args.runs:
        row = row_of(folder)
        rows[row.recipe, row.seed] = row
        print(f"{folder}: {row.test_acc:.2f} % after {row.epochs} epochs, seed {row.seed}")
    write_table(path, RecipeRow, list(rows.values()))


def row_of(folder: Path) -> RecipeRow:
    """The run in `folder`; UserError unless it is finished and was tested on a whole test set."""
    config, log = artifacts.read_config(folder), artifacts.read_log(folder)
    if artifacts.evaluated(log) != "test":
        raise UserError(f"{folder} was evaluated on held-out images; evidence is of the test set")
    try:
        epochs, seed, width = (config.flags[name] for name in ("epochs", "seed", "width"))
        net = Net(len(config.classes), float(width))
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{folder / artifacts.CONFIG}: unusable flags: {error}") from error
    if len(log) != epochs:
        raise UserError(f"{folder} has {len(log)} of {epochs} epochs; finish it with --resume")
    return RecipeRow(
        model=f"C1C2C3C4O, width {width:g}",
        params=config.parameters,
        mult_adds=count_mult_adds(net),
        epochs=epochs,
        seed=seed,
        dataset=config.dataset,
        test_acc=float(log.test_acc.iloc[-1]),
        best_test_acc=float(log.test_acc.max()),
        seconds=round(float(log.seconds.sum()), 1),
        device=config.device,
        command=config.command,
    )


if __name__ == "__main__":
    run(main)
