"""Trains with several values of a setting and seeds, on held-out images, and compares the runs.

    python -m experiments.sweep --vary weight_decay=5e-4,2.5e-4,1e-3 --seeds 3
    python -m experiments.sweep --vary lr=0.001,0.0005 --out runs/lr -- --epochs 8 --augment device
    python -m experiments.sweep --vary augment=albumentations,device --print | parallel

`--vary` names a flag of train.py; flags after -- are for every run. Each run is a command of
train.py with a folder of its own in --out, and is recorded in results/runs.csv when it is finished
(see experiments.record). A run that was stopped is resumed; one that has a row already, of the same
recipe, seed, data set and device model, is not repeated. Without a --holdout after --, 5,000
training images are held out and evaluated: settings are not to be chosen on the test set.

The table compares each value with the first one, by runs of the same seed and device model.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from console.errors import UserError, join_command, run
from console.files import check_writable
from console.flags import Device, flag_name, parse, setting
from experiments.record import HOLDOUT, name_images, record
from inputs.sources import DataFlags
from recipe import Recipe
from records import names

if TYPE_CHECKING:
    from inputs.image_data import ImageData

OWN_FLAGS = ("--seed", "--out", "--resume", "--find-lr")


def read_variation(text: str) -> tuple[str, tuple[str, ...]]:
    """ "weight_decay=1e-3,2e-3" -> ("--weight-decay", ("1e-3", "2e-3"))."""
    name, _, values = text.partition("=")
    flag = flag_name({"lr_per_image": "lr"}.get(name, name).strip("-"))
    if flag in ("--", *OWN_FLAGS) or not all(values.split(",")):
        raise ValueError(
            f"needs FIELD=VALUE,VALUE, weight_decay=5e-4,1e-3 for example, not {text!r}"
        )
    return flag, tuple(values.split(","))


@dataclass(frozen=True)
class Options:
    """options"""

    vary: tuple[str, tuple[str, ...]] | None = setting(
        None, "a flag of train.py and the values to try", read_variation, metavar="FIELD=V1,V2"
    )
    seeds: int = setting(3, "seeds for each value", at_least=1)
    print: bool = setting(False, "print the commands, one a line, and nothing else")
    out: Path = setting(Path("runs/sweep"), "folder of the runs", metavar="DIR")
    results: Path = setting(names.RESULTS, "folder of runs.csv", metavar="DIR")


@dataclass(frozen=True)
class Images(DataFlags, Device):
    """The flags of train.py, beside the recipe, that tell one row of runs.csv from another."""

    limit_train: int | None = setting(None, "training images", int, at_least=1)
    holdout: int | None = setting(None, "held-out images", int, at_least=1)
    teacher: Path | None = setting(None, "checkpoint", Path)


def main() -> None:
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    description = "Compare several values of a setting; see docs/recipe.md."
    options = parse(description, Options, argv=arguments[:end])
    commands = plan(options, arguments[end + 1 :])
    if options.print:
        for flags in commands.values():
            print(join_command(["python", "train.py", *flags]))
        return
    settings = {  # a wrong value is told before the first run
        out: parse("", Recipe, Images, argv=flags, others=True) for out, flags in commands.items()
    }
    check_writable(options.out)
    check_writable(options.results, "--results")

    from records.runs import RunRow, make_runs_table
    from records.tables import read_rows
    from report.evidence import format_sweep

    known = {row.identity: row for row in read_rows(options.results / names.RUNS, RunRow)}
    planned = {out: known.get(identify(*each)) for out, each in settings.items()}
    rows = []
    for out, row in planned.items():
        if row:
            print(f"{out}: has a row in {options.results / names.RUNS}", flush=True)
            rows.append(row)
        elif train(out, commands[out]):
            rows += record([out], options.results)
    if rows:
        print(format_sweep(make_runs_table(rows)))
    if failed := len(planned) - len(rows):
        raise UserError(
            f"{failed} of {len(planned)} runs failed, see above; repeat this to resume them, or "
            "give another --out for other flags"
        )


def plan(options: Options, flags: list[str]) -> dict[Path, list[str]]:
    """The flags of train.py of each run, by its folder."""
    if options.vary is None:
        raise UserError("--vary FIELD=V1,V2 is needed: what to compare", status=2)
    flag, values = options.vary
    given = [each.partition("=")[0] for each in flags]
    if own := {*OWN_FLAGS, flag}.intersection(given):
        raise UserError(f"the sweep sets {own.pop()} itself; leave it out after --", status=2)
    if "--holdout" not in given:
        flags = [*flags, "--holdout", str(HOLDOUT)]
    commands = {}
    for seed, value in product(range(options.seeds), values):
        out = options.out / f"{flag.strip('-')}-{value}-seed{seed}".replace("/", "-")
        commands[out] = [*flags, flag, value, "--seed", str(seed), "--out", str(out)]
    return commands


def identify(recipe: Recipe, images: Images) -> tuple:
    """`RunRow.identity` of a run of train.py; UserError if its data set or teacher is missing."""
    from constraints.tables import count_parameters
    from model import build_network
    from records.runs import make_identity, write_recipe
    from records.trained_net import TrainedNet
    from training.devices import describe_device, pick_device

    if images.teacher:
        recipe = replace(recipe, teacher=TrainedNet(images.teacher).fingerprint)
    data = load_once(images.dataset, images.data_dir, images.limit_train, images.holdout)
    network = build_network(num_classes=len(data.classes), **asdict(recipe.network))
    dataset = name_images(data.name, data.fingerprint, vars(images))
    place = describe_device(pick_device(images.device))
    return make_identity(
        "train.py", count_parameters(network), write_recipe(recipe), dataset, data.split, place
    )


@cache
def load_once(*source: object) -> ImageData:
    from data import load

    return load(*source)


def train(out: Path, flags: Sequence[str]) -> bool:
    """Runs train.py, with --resume if the run in `out` was stopped; whether it is finished."""
    command = [sys.executable, "train.py", *flags]
    if (out / names.LAST).exists():
        command.append("--resume")
    status = subprocess.call(command)  # which is killed if this process is stopped
    if status == 2:  # a bad flag, which train.py has named
        sys.exit(status)
    return status == 0


if __name__ == "__main__":
    run(main)
