"""What a run leaves in its folder (`names` lists it): how it is written, read and archived.

Every file is written beside its place and then moved over it: a reader never sees half a file,
and a crash never costs the file that was there before.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from console.errors import UserError
from records import names
from records.checkpoints import Checkpoint, save_checkpoint
from records.files import existing, replacing
from records.tables import read_table, validated, write_table


@dataclass(frozen=True, kw_only=True)
class LogRow:
    """One epoch: accuracies in percent, losses as mean cross-entropy in nats.

    A run is evaluated on the test set or, with --holdout, on held-out training images ("val").
    The other two fields are None, and not columns of the file.
    """

    epoch: int
    train_loss: float
    train_acc: float
    test_loss: float | None = None
    test_acc: float | None = None
    val_loss: float | None = None
    val_acc: float | None = None
    lr: float  # at the start of the epoch
    seconds: float  # training and evaluation
    images_per_second: float  # training alone

    @property
    def evaluated_loss(self) -> float:
        return self.test_loss if self.val_loss is None else self.val_loss

    @property
    def evaluated_acc(self) -> float:
        return self.test_acc if self.val_acc is None else self.val_acc


@dataclass(frozen=True)
class Config:
    """What was run, on what; times are local, ISO 8601."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    command: str
    started: str
    updated: str
    flags: dict[str, Any]
    augmentation: dict[str, Any]
    dataset: str
    fingerprint: str
    train_images: int
    test_images: int
    evaluated: str  # a key of names.EVALUATED
    classes: list[str]
    mean: list[float]
    std: list[float]
    parameters: int
    device: str
    versions: dict[str, str]


@dataclass(frozen=True)
class ClassRow:
    """Precision, recall and F1 of one class, in percent."""

    name: str
    precision: float  # the share of predictions of this class that are right
    recall: float  # the share of this class's images that are predicted as such
    f1: float  # the harmonic mean of both
    images: int


def now() -> str:
    """The local time, ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def start_run(out: Path, config: Config) -> Path | None:
    """Makes `out` ready for a new run; returns the folder to which an earlier run was moved."""
    archived = archive_earlier_run(out)
    write_config(out, config)
    return archived


def continue_run(out: Path, config: Config, log: Sequence[LogRow]) -> Config:
    """Makes `out` ready to continue after `log`; returns `config` with the run's own start."""
    first = read_config(out)
    config = replace(config, started=first.started, command=first.command)
    write_table(out / names.TRAIN_LOG, log)
    write_config(out, config)
    return config


def save_epoch(
    out: Path, config: Config, log: Sequence[LogRow], checkpoint: Checkpoint, is_best: bool
) -> None:
    """Writes the state after the last epoch in `log`, of which `checkpoint` is the network."""
    if is_best:
        save_checkpoint(out / names.BEST, replace(checkpoint, training=None))
    save_checkpoint(out / names.LAST, checkpoint)
    write_table(out / names.TRAIN_LOG, log)
    write_config(out, replace(config, updated=now()))


def archive_earlier_run(out: Path) -> Path | None:
    """Moves a run that is in `out` to archive/<its start time>/ there; returns that folder."""
    present = [name for name in names.RUN_FILES if (out / name).exists()]
    if not present:
        return None
    try:
        started = re.sub(r"\W", "-", read_config(out).started)
    except UserError:
        oldest = min((out / name).stat().st_mtime for name in present)
        started = datetime.fromtimestamp(oldest).strftime("%Y-%m-%dT%H-%M-%S")
    # config.json, which has the start time, is last: after a kill, the next attempt uses the
    # same folder
    ordered = sorted((*names.RUN_FILES, *names.RUN_PICTURES), key=lambda name: name == names.CONFIG)
    return archive(out, ordered, started)


def archive_earlier_bench(out: Path) -> None:
    """Moves a measurement that is in `out` to archive/<its time>/ there."""
    if (out / names.BENCH).exists():
        measured = datetime.fromtimestamp((out / names.BENCH).stat().st_mtime)
        archive(out, (names.BENCH,), measured.strftime("%Y-%m-%dT%H-%M-%S"))


def archive(out: Path, files: Sequence[Path], folder_name: str) -> Path:
    """Moves those of `files` that exist to archive/<folder_name>/, or to a new folder like it."""
    present = [name for name in files if (out / name).exists()]
    folder, copies = out / names.ARCHIVE / folder_name, 1
    while any((folder / name).exists() for name in present):
        copies += 1
        folder = out / names.ARCHIVE / f"{folder_name}-{copies}"
    for name in present:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).rename(folder / name)
    return folder


def read_log(out: Path) -> pd.DataFrame:
    """The epochs of a run, at least one, with the columns of `LogRow` that it has."""
    path = out / names.TRAIN_LOG
    log = read_table(path, LogRow)
    if not any({f"{name}_loss", f"{name}_acc"} <= set(log) for name in names.EVALUATED):
        raise UserError(f"{path} has neither test_loss and test_acc nor val_loss and val_acc")
    return log


def evaluated_on(log: pd.DataFrame) -> str:
    """What the run of a `log` was evaluated on: "test" or "val"."""
    return next(name for name in names.EVALUATED if f"{name}_acc" in log)


def write_config(out: Path, config: Config) -> None:
    with replacing(out / names.CONFIG) as path:
        path.write_text(json.dumps(asdict(config), indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_config(out: Path) -> Config:
    path = out / names.CONFIG
    try:
        return validated(Config, json.loads(existing(path).read_text("utf-8")))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is unreadable: {' '.join(str(error).split())}") from error


def write_confusion(out: Path, counts: np.ndarray, classes: Sequence[str]) -> None:
    """`counts` (classes, classes): rows true, columns predicted."""
    table = pd.DataFrame(counts, index=pd.Index(classes, name="true"), columns=list(classes))
    with replacing(out / names.CONFUSION_MATRIX) as path:
        table.to_csv(path, lineterminator="\n")


def read_confusion(out: Path) -> pd.DataFrame:
    """What `write_confusion` wrote: class names as index and columns."""
    return pd.read_csv(existing(out / names.CONFUSION_MATRIX), index_col=0)


def write_class_report(
    out: Path, labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]
) -> None:
    """Writes precision, recall and F1 of each class, from int64 (N,) labels and predictions."""
    figures = precision_recall_fscore_support(
        labels, predictions, labels=range(len(classes)), zero_division=0
    )
    rows = [
        ClassRow(name, *(round(100 * float(share), 2) for share in shares), int(images))
        for name, *shares, images in zip(classes, *figures, strict=True)
    ]
    write_table(out / names.CLASS_REPORT, rows)
