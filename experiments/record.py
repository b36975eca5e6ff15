"""Adds finished runs to the table of runs, results/runs.csv; copies their logs to results/runs/.

    python -m experiments.record runs/seed0 runs/seed1 runs/seed2
    python update_readme.py                              # and into the README

A run that is there already, of the same network with the same recipe on the same device, is
replaced. The test accuracies are drawn against parameters in results/plots/accuracies.png.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.errors import UserError, run
from console.files import check_writable, replacing
from console.flags import parse, setting
from inputs.sources import unambiguous_name
from records import names

if TYPE_CHECKING:
    from records.runs import RunRow

HOLDOUT = 5000  # images that are held out unless a run says otherwise


@dataclass(frozen=True)
class Options:
    """options"""

    runs: Sequence[Path] = setting(
        (), "the folder of a run", Path, flag="runs", metavar="RUN", many=True
    )
    results: Path = setting(names.RESULTS, "folder of runs.csv", metavar="DIR")


def main() -> None:
    options = parse("Add finished runs to the table of runs.", Options)
    check_writable(options.results, "--results")
    record(options.runs, options.results)


def record(folders: Sequence[Path], results: Path) -> list[RunRow]:
    """Adds a row for each of `folders` to runs.csv in the folder `results`; returns the rows."""
    from records.runs import RunRow, add_rows
    from records.tables import read_rows
    from report.evidence import draw_published

    new = {folder: row_of(folder) for folder in folders}
    read_rows(results / names.RUNS, RunRow)  # an unusable table is refused before a log is copied
    for folder, row in new.items():
        (results / row.log).parent.mkdir(parents=True, exist_ok=True)
        with replacing(results / row.log) as path:
            shutil.copyfile(folder / names.TRAIN_LOG, path)
    add_rows(results, list(new.values()))
    draw_published(results)
    for folder, row in new.items():
        figures = f"{row.accuracy:.2f} % after epoch {row.epochs}, seed {row.seed}"
        print(f"{folder}: {figures}", flush=True)
    return list(new.values())


def row_of(folder: Path) -> RunRow:
    """The row of the run in `folder`; UserError unless it is finished."""
    from constraints.tables import count_mult_adds
    from records.checkpoints import load_network
    from records.results import load_best, read_config, read_log
    from records.runs import RunRow, write_recipe

    config, log = read_config(folder), read_log(folder)
    recipe, last = config.recipe, log.iloc[-1]
    if len(log) != recipe.epochs:
        raise UserError(f"{folder} has {len(log)} of {recipe.epochs} epochs; finish it: --resume")
    network = load_network(load_best(folder, config), folder / names.BEST)
    return RunRow(
        script="train.py",
        network=recipe.network.model,
        parameters=config.parameters,
        mult_adds=count_mult_adds(network),
        recipe=write_recipe(recipe),
        seed=recipe.seed,
        epochs=recipe.epochs,
        dataset=name_images(config.dataset, config.fingerprint, config.options),
        split=config.split,
        accuracy=float(last.eval_acc),
        loss=float(last.eval_loss),
        train_acc=float(last.train_acc),
        seconds=round(float(log.seconds.sum()), 3),
        images_per_second=round(float(log.images_per_second.median()), 1),
        device=config.device,
        commit=config.commit,
        command=config.command,
        teacher=config.teacher,
        constraints_kept="yes" if all(config.constraints.values()) else "no",
    )


def name_images(dataset: str, fingerprint: str, options: Mapping[str, Any]) -> str:
    """ "cifar10", or "cifar10, --limit-train 1000" if not all of its images were trained on."""
    name = unambiguous_name(dataset, fingerprint)
    if options["limit_train"]:
        name += f", --limit-train {options['limit_train']}"
    if options["holdout"] not in (None, HOLDOUT):
        name += f", --holdout {options['holdout']}"
    return name


if __name__ == "__main__":
    run(main)
