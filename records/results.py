"""What a run leaves in its folder (see `names`): the log, config.json, the confusion matrix."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from packaging.requirements import Requirement

from console.errors import UserError
from console.files import REPOSITORY, check_file, replacing
from constraints.tables import count_parameters
from recipe import Recipe
from records import names
from records.checkpoints import Channels, Checkpoint, load_checkpoint
from records.tables import Strict, as_table, read_rows, validate, write_table

# those that decide a result, each with the name that pip has for it
PACKAGES = {"cv2": "opencv-python-headless"}
PACKAGES |= {name: name for name in ("torch", "torchvision", "albumentations", "numpy")}


@dataclass(frozen=True)
class LogRow(Strict):
    """One epoch: accuracies in percent, losses as mean cross-entropy in nats.

    In the file, eval_loss and eval_acc are called test_loss and test_acc, or val_loss and val_acc
    if the run was evaluated on held-out training images.
    """

    epoch: int
    train_loss: float
    train_acc: float
    eval_loss: float
    eval_acc: float
    lr: float  # at the start of the epoch
    seconds: float  # training and evaluation
    images_per_second: float  # training and batch-norm statistics, without evaluation


def make_row(epoch: int, lr: float, trained: Any, evaluated: Any) -> LogRow:
    """The row of an epoch with these `training.engine.Figures`, rounded to eight digits."""
    figures = (
        *(trained.loss, trained.accuracy, evaluated.loss, evaluated.accuracy, lr),
        *(trained.seconds + evaluated.seconds, trained.images / trained.seconds),
    )
    return LogRow(epoch, *(float(f"{figure:.8g}") for figure in figures))


@dataclass(frozen=True, kw_only=True)
class Config(Strict):
    """What was run, on what; times are local, ISO 8601."""

    command: str
    started: str
    updated: str
    recipe: Recipe
    options: dict[str, Any]
    dataset: str
    fingerprint: str
    train_images: int
    test_images: int
    split: str  # what the run was evaluated on, a key of names.SPLITS
    classes: list[str]
    mean: Channels
    std: Channels
    parameters: int
    device: str
    versions: dict[str, str]
    # empty for runs from before these were recorded
    commit: str = ""  # see `read_commit`; a resume at another commit adds that
    constraints: dict[str, bool] = field(default_factory=dict)  # whether the network keeps each
    teacher: str = ""  # its name, "ResidualNet, 75 epochs"; its fingerprint is in the recipe


def make_config(
    recipe: Recipe,
    options: Any,
    data: Any,
    network: Any,
    checks: Sequence[Any],
    teacher: Any,
    device: str,
    command: str,
) -> Config:
    """The config of a run that begins now; see train.py for the arguments."""
    modules = {name: sys.modules[name] for name in PACKAGES if name in sys.modules}
    versions = {name: str(module.__version__) for name, module in modules.items()}
    return Config(
        command=command,
        started=now(),
        updated=now(),
        recipe=recipe,
        options=json.loads(json.dumps(asdict(options), default=str)),
        dataset=data.name,
        fingerprint=data.fingerprint,
        train_images=len(data.train_labels),
        test_images=len(data.test_labels),
        split=data.split,
        classes=list(data.classes),
        mean=list(data.mean),
        std=list(data.std),
        parameters=count_parameters(network),
        device=device,
        versions={"python": platform.python_version(), **versions},
        commit=read_commit(),
        constraints={each.constraint: each.passed for each in checks},
        teacher=teacher.title if teacher else "",
    )


@dataclass(frozen=True)
class ClassRow(Strict):
    """Precision, recall and F1 of one class, in percent."""

    name: str
    precision: float  # the share of predictions of this class that are right
    recall: float  # the share of this class's images that are predicted as such
    f1: float  # the harmonic mean of both
    images: int


def find_unsupported(versions: dict[str, str]) -> list[str]:
    """Packages of `versions` that requirements.txt excludes: ["cv2 4.12.0, not >=5.0"]."""
    lines = (REPOSITORY / "requirements.txt").read_text("utf-8").splitlines()
    required = [Requirement(text) for line in lines if (text := line.partition("#")[0].strip())]
    allowed = {each.name: each.specifier for each in required}
    return [
        f"{name} {version}, not {allowed[PACKAGES[name]]}"
        for name, version in versions.items()
        if name in PACKAGES and not allowed[PACKAGES[name]].contains(version, prereleases=True)
    ]


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def read_commit(project: Path = REPOSITORY) -> str:
    """`git describe --always`, with "-dirty" if its code differs; "" outside a repository."""
    # a repository that contains `project` among other things is not its own
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(project.parent)}
    try:
        commit, changes = (
            subprocess.run(
                ["git", *words], cwd=project, env=environment, capture_output=True, text=True
            ).stdout.strip()
            for words in (["describe", "--always"], ["status", "--porcelain", "-uno", "*.py"])
        )
    except OSError:  # git is not installed
        return ""
    return f"{commit}-dirty" if changes else commit


def find_best(log: Sequence[LogRow]) -> LogRow:
    """The epoch with the highest accuracy, the first one of equals."""
    return max(log, key=lambda row: row.eval_acc)


def write_log(out: Path, log: Sequence[LogRow], split: str) -> None:
    columns = {f"eval_{figure}": f"{split}_{figure}" for figure in ("loss", "acc")}
    write_table(out / names.TRAIN_LOG, as_table(log).rename(columns=columns))


def read_log(out: Path) -> pd.DataFrame:
    """The epochs of a run, at least one, with the fields of `LogRow` as columns."""
    path = check_file(out / names.TRAIN_LOG)
    columns = {f"{split}_{x}": f"eval_{x}" for split in names.SPLITS for x in ("loss", "acc")}
    log = read_rows(path, LogRow, columns)
    if not is_complete(log):
        raise UserError(f"{path} is unreadable: its epochs are not 1, 2 and so on")
    return as_table(log)


def is_complete(log: Sequence[LogRow]) -> bool:
    """Whether it has epochs 1 and so on, at least one."""
    return bool(log) and [row.epoch for row in log] == list(range(1, len(log) + 1))


def write_config(out: Path, config: Config) -> None:
    text = json.dumps(asdict(config), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    with replacing(out / names.CONFIG) as path:
        path.write_text(f"{text}\n", "utf-8", errors="replace")  # a path may be no UTF-8


def read_config(out: Path) -> Config:
    path = check_file(out / names.CONFIG)
    try:
        return validate(Config, json.loads(path.read_text("utf-8")))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is unreadable: {error}") from error


def is_of(checkpoint: Checkpoint, config: Config) -> bool:
    """Whether `checkpoint` can be of the run of `config`, by its classes and its data set."""
    return checkpoint.classes == config.classes and checkpoint.data in ("", config.fingerprint)


def load_best(out: Path, config: Config) -> Checkpoint:
    """best.pt of the run in `out`; UserError unless it is of the run of `config`."""
    best = load_checkpoint(out / names.BEST)
    if not is_of(best, config):
        raise UserError(f"{out / names.BEST} and {names.CONFIG} are of different runs")
    return best


def write_confusion(out: Path, counts: np.ndarray, classes: Sequence[str]) -> None:
    """`counts` (classes, classes): rows true, columns predicted."""
    table = pd.DataFrame(counts, columns=list(classes))
    table.insert(0, "true", list(classes), allow_duplicates=True)
    write_table(out / names.CONFUSION_MATRIX, table)


def read_confusion(out: Path) -> pd.DataFrame:
    """What `write_confusion` wrote: class names as index and columns; UserError if damaged."""
    path = check_file(out / names.CONFUSION_MATRIX)
    try:
        cells = pd.read_csv(path, header=None, dtype=str, keep_default_na=False).to_numpy()
        counts = pd.DataFrame(cells[1:, 1:], cells[1:, 0], cells[0, 1:]).astype(int)
        if list(counts.index) != list(counts.columns):
            raise ValueError("rows and columns differ")
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is unreadable: {error}") from error
    return counts
