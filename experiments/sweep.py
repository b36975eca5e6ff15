"""Trains with several values of a setting and seeds, on held-out images, and compares the runs.

    python -m experiments.sweep --vary weight_decay=5e-4,2.5e-4,1e-3 --seeds 3
    python -m experiments.sweep --vary lr=0.001,0.0005 --out runs/lr -- --epochs 8 --augment device
    python -m experiments.sweep --vary augment=albumentations,device --print | parallel

`--vary` names a flag of train.py; flags after -- are for every run. Each run is a command of
train.py with a folder of its own in --out, and is recorded in results/runs.csv when it is finished
(see experiments.record). A run that was stopped is resumed; one that has a row already, of the same
flags and device model, is not repeated. Without a --holdout after --, 5,000 training images are
held out and evaluated: settings are not to be chosen on the test set.

The table compares each value with the first one, by runs of the same seed and device model.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from console.errors import UserError, join_command, run
from console.files import check_writable
from console.flags import Device, parse, setting
from experiments.record import HOLDOUT, record
from recipe import Recipe
from records import names

OWN_FLAGS = ("--seed", "--out", "--resume", "--find-lr")


def read_variation(text: str) -> tuple[str, tuple[str, ...]]:
    """ "weight_decay=1e-3,2e-3" -> ("--weight-decay", ("1e-3", "2e-3"))."""
    name, _, values = text.partition("=")
    name = {"lr_per_image": "lr"}.get(name, name).strip("-")
    flag = f"--{name.replace('_', '-')}"
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


def main() -> None:
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    about = "Compare several values of a setting; flags of train.py after -- are for every run."
    options = parse(about, Options, argv=arguments[:end])
    commands = plan(options, arguments[end + 1 :])
    if options.print:
        for flags in commands.values():
            print(command_of(flags))
        return
    for flags in commands.values():  # a wrong value is told before the first run
        _, options_of_run = parse("", Recipe, Device, argv=flags, others=True)
    check_writable(options.out)
    check_writable(options.results, "--results")

    from records import runs, tables
    from report.evidence import format_sweep
    from training.devices import describe_device, pick_device

    here = runs.model_of(describe_device(pick_device(options_of_run.device)))
    recorded = tables.read_rows(options.results / names.RUNS, runs.RunRow)
    same_device = [row for row in recorded if runs.model_of(row.device) == here]
    known = {without_folder(row.command): row for row in same_device}
    rows = []
    for out, flags in commands.items():
        if row := known.get(without_folder(command_of(flags))):
            print(f"{out}: has a row in {options.results / names.RUNS}", flush=True)
            rows.append(row)
        elif train(out, flags):
            rows += record([out], options.results)
    if rows:
        print(format_sweep(runs.make_runs_table(rows)))
    if failed := len(commands) - len(rows):
        raise UserError(
            f"{failed} of {len(commands)} runs failed, see above; repeat this to resume them, or "
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


def command_of(flags: Sequence[str]) -> str:
    return join_command(["python", "train.py", *flags])


def without_folder(command: str) -> str:
    return re.sub(" --out ('[^']*'|[^ ]*)", "", command)


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
