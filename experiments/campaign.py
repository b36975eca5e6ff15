"""Trains both networks for 25 to 200 epochs, also with a teacher, and records each run.

    python -m experiments.campaign                                # all of them
    python -m experiments.campaign --only residual-25 taught-25   # two of them
    python -m experiments.campaign --out runs/device -- --augment device --compile

A finished run is added to results/recipes.csv. A run that was stopped is resumed and a finished one
is skipped, so the command can be repeated at any time. With other flags for train.py, give another
--out. Two copies that are started together train different runs: a run whose folder is in use is
skipped, and so is one whose teacher is not finished. After such skips, the exit status is 1.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from console.errors import Stopped, UserError, run
from console.flags import Parser, a_path
from experiments.record import record
from records import names
from records.files import check_writable

PATIENCE = 5  # seconds in which a run that has received the same signal ends


class Runs(NamedTuple):
    """Runs that differ in their seed alone."""

    flags: str  # of train.py
    seeds: int
    teacher: str = ""  # the run whose network is their teacher: its folder in --out


RUNS = {
    "residual-25": Runs("--model ResidualNet", 3),
    "net-25": Runs("", 3),
    "taught-25": Runs("", 3, "residual-25-seed0"),
    "residual-100": Runs("--model ResidualNet --epochs 100", 2),
    "net-100": Runs("--epochs 100", 2),
    "residual-200": Runs("--model ResidualNet --epochs 200", 3),
    "net-200": Runs("--epochs 200", 3),
    "taught-200": Runs("--epochs 200", 3, "residual-200-seed0"),
    "wide-25": Runs("--width 1.5", 1),
}


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Train both networks for 25 to 200 epochs and record each run.")
    parser.add_argument(
        "--only", metavar="NAME", nargs="+", choices=RUNS, default=list(RUNS),
        help=f"train these runs only (default: all), of: {', '.join(RUNS)}",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="DIR", type=a_path, default=Path("runs"), help="folder of the runs"
    )
    parser.add_argument(
        "--results", metavar="DIR", type=a_path, default=names.RESULTS, help="folder of recipes.csv"
    )
    own = {word for runs in RUNS.values() for word in runs.flags.split() if word.startswith("--")}
    add_flags_for_train_py(parser, own | {"--seed", "--teacher", "--out", "--resume"})
    return parser.parse_args()


def add_flags_for_train_py(parser: Parser, own: Collection[str]) -> None:
    """Adds flags for all runs of train.py. Those in `own` are set by the command, and refused."""

    def flag_for_train_py(text: str) -> str:
        if (flag := text.partition("=")[0]) in ("--holdout", "--find-lr"):
            raise argparse.ArgumentTypeError(f"{flag} leaves no run on the test set; leave it out")
        if flag in own:
            raise argparse.ArgumentTypeError(f"the command sets {flag} itself; leave it out")
        return text

    parser.add_argument(
        "flags", metavar="FLAG", nargs="*", default=[], type=flag_for_train_py,
        help="after --: flags for every call of train.py (default: none)",
    )  # fmt: skip


def main() -> None:
    args = parse_arguments()
    check_writable(args.out)
    check_writable(args.results, "--results")
    skipped = []
    for name in args.only:
        runs, teacher = RUNS[name], args.out / RUNS[name].teacher
        own_flags = shlex.split(runs.flags)
        if runs.teacher:
            own_flags += ["--teacher", teacher / names.BEST]
        for seed in range(runs.seeds):
            out = args.out / f"{name}-seed{seed}"
            flags = [*args.flags, *own_flags, "--seed", seed, "--out", out]
            if is_finished(out):
                check_command(out, flags)
                print(f"{out}: is finished", flush=True)
            elif runs.teacher and not is_finished(teacher):
                print(f"{out}: its teacher {teacher} is not finished, skipped", flush=True)
                skipped.append(out.name)
                continue
            elif status := train(*flags, *["--resume"] * (out / names.LAST).exists()):
                if status == 2:  # a bad flag, which train.py has named
                    sys.exit(status)
                print(f"{out}: failed with status {status}, skipped", flush=True)
                skipped.append(out.name)
                continue
            record([out], args.results)
    if skipped:
        raise UserError(f"skipped: {', '.join(skipped)}; repeat the command to train them")


def is_finished(out: Path) -> bool:
    from records.run import read_config, read_log

    try:
        is_trained = len(read_log(out)) == read_config(out).flags["epochs"]
    except UserError:  # there is no run
        return False
    return is_trained and all((out / picture).exists() for picture in names.RUN_PICTURES)


def check_command(out: Path, flags: list[object]) -> None:
    """Raises UserError unless the run in `out` was trained with these flags."""
    from records.run import read_config

    command = read_config(out).command
    if command != shlex.join(["python", "train.py", *map(str, flags)]):
        raise UserError(f"{out} was trained by another command, {command}; give another --out")


def train(*flags: object) -> int:
    """Runs train.py with these flags; returns its exit status."""
    with subprocess.Popen([sys.executable, "train.py", *map(str, flags)]) as process:
        try:
            return process.wait()
        except Stopped:
            with suppress(subprocess.TimeoutExpired):  # a terminal's Ctrl-C reaches it as well
                process.wait(PATIENCE)
            process.terminate()
            raise


if __name__ == "__main__":
    run(main)
