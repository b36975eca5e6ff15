"""The table of finished runs, results/runs.csv: a row a run, whatever it was for.

And the rows of the two tables beside it: the speed of training, and results of others.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pandas as pd
from filelock import FileLock

from console.flags import as_flags
from recipe import Recipe
from records import names
from records.tables import Strict, read_rows, validate, write_table

PLAIN_SCRIPT = "experiments.plain"


@dataclass(frozen=True, kw_only=True)
class RunRow(Strict):
    """A finished run: accuracies of its last epoch in percent, losses as mean cross-entropy.

    Fields with a default are empty where an earlier version did not record them.
    """

    script: str  # "train.py" or PLAIN_SCRIPT
    network: str
    parameters: int
    mult_adds: int  # for one image
    recipe: str  # a `Recipe` as nested JSON
    seed: int
    epochs: int
    dataset: str
    split: str  # what was evaluated: "test", or "val" for held-out training images
    accuracy: float
    loss: float | None = None
    train_acc: float | None = None
    seconds: float | None = None  # of all epochs
    images_per_second: float | None = None  # of the median epoch
    device: str
    commit: str = ""  # see `results.read_commit`
    command: str
    teacher: str = ""  # "ResidualNet, 75 epochs"; the recipe has its fingerprint
    constraints_kept: str = ""  # "yes" or "no"

    @property
    def settings(self) -> Recipe:
        return read_recipe(self.recipe)

    @property
    def identity(self) -> tuple:
        """Equal for a run that is repeated on the same device, which replaces the earlier one."""
        parts = self.script, self.parameters, self.recipe, self.dataset, self.split
        return make_identity(*parts, self.device)

    @property
    def log(self) -> Path:
        """The copy of the run's log, in the folder of runs.csv."""
        digest = hashlib.sha256(repr(self.identity).encode()).hexdigest()[:8]
        title = f"{self.network}-{self.epochs}-epochs-seed-{self.seed}-{self.split}"
        return names.RECORDED_LOGS / f"{title}-{digest}.csv"


@dataclass(frozen=True)
class BenchRow(Strict):
    """The speed of one way of training: medians over rounds, the slowest and the fastest round."""

    mode: str
    images_per_second: float
    slowest: float
    fastest: float
    share_of_ceiling: float
    ratio_to_plain: float
    peak_memory_mb: int  # of the training process, without its workers
    device: str
    command: str
    commit: str = ""  # see `results.read_commit`; "" where it is unknown


@dataclass(frozen=True, kw_only=True)
class Mark(Strict):
    """A result of others on CIFAR-10's test set, written by hand."""

    who: str
    source: str = ""  # an address; "" if it is unpublished
    params: int
    constraints_kept: str
    epochs: str
    test_acc: float


def make_identity(
    script: str, parameters: int, recipe: str, dataset: str, split: str, device: str
) -> tuple:
    """See `RunRow.identity`: devices round differently, which changes a result as a seed does."""
    place = (model_of(device), *re.findall(r"\d+ processes", device))
    return script, parameters, recipe, dataset, split, place


def model_of(device: str) -> str:
    """The CPU or GPU model: a device without its numbers of threads and processes."""
    return re.sub(r", \d+ (threads?|processes)", "", device)


def write_recipe(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), separators=(",", ":"))


def read_recipe(text: str) -> Recipe:
    return validate(Recipe, json.loads(text))


def list_changes(recipe: Recipe) -> list[str]:
    """The settings that differ from the defaults: ["--lr 0.002"]; not epochs, seed and network."""
    known = {"--epochs", "--seed", "--model"}
    values, defaults = as_flags(recipe), as_flags(Recipe())
    return [f"{x} {values[x]}" for x in values if x not in known and values[x] != defaults[x]]


def add_rows(results: Path, rows: Sequence[RunRow]) -> None:
    """Adds rows to runs.csv in the folder `results`, in place of those of the same runs.

    Of several processes that do so, one waits for the other, so that no row is lost.
    """
    path = results / names.RUNS
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        merged = {row.identity: row for row in (*read_rows(path, RunRow), *rows)}
        write_table(path, list(merged.values()))


def read_runs(results: Path) -> pd.DataFrame:
    """runs.csv as a table, see `make_runs_table`."""
    return make_runs_table(read_rows(results / names.RUNS, RunRow))


def make_runs_table(rows: Sequence[RunRow]) -> pd.DataFrame:
    """A table with the fields of RunRow and two more columns.

    `group` is equal for runs that differ in the seed alone, `place` is the device model.
    """
    table = pd.DataFrame(map(asdict, rows), columns=[each.name for each in fields(RunRow)])
    parts = ["script", "network", "parameters", "dataset", "split", "teacher"]
    seedless = [write_recipe(replace(row.settings, seed=0)) for row in rows]
    table["group"] = [*zip(*(table[part] for part in parts), seedless, strict=True)]
    table["place"] = table.device.map(model_of)
    return table
