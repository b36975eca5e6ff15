"""What a run leaves in its folder (`names` lists it): how it is written, read and archived."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from console.errors import UserError
from records import Strict, names
from records.checkpoints import (
    Channels,
    Checkpoint,
    Percent,
    load_checkpoint,
    network_of,
    save_checkpoint,
)
from records.files import existing, replacing
from records.tables import as_table, read_rows, validated, write_table


@dataclass(frozen=True, kw_only=True)
class LogRow(Strict):
    """One epoch: accuracies in percent, losses as mean cross-entropy in nats.

    A run is evaluated on the test set or, with --holdout, on held-out training images ("val").
    The other two fields are None, and not columns of the file.
    """

    epoch: int
    train_loss: float
    train_acc: Percent
    test_loss: float | None = None
    test_acc: Percent | None = None
    val_loss: float | None = None
    val_acc: Percent | None = None
    lr: float  # at the start of the epoch
    seconds: float  # training and evaluation
    images_per_second: float  # training and batch-norm statistics, without evaluation

    @property
    def evaluated_loss(self) -> float:
        return self.test_loss if self.val_loss is None else self.val_loss

    @property
    def evaluated_acc(self) -> float:
        return self.test_acc if self.val_acc is None else self.val_acc


@dataclass(frozen=True)
class Config(Strict):
    """What was run, on what; times are local, ISO 8601."""

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
    mean: Channels
    std: Channels
    parameters: int
    device: str
    versions: dict[str, str]
    # empty for runs from before these were recorded
    commit: str = ""  # see `evidence.current_commit`; a resume at another commit adds that
    constraints: dict[str, bool] = field(default_factory=dict)  # whether the network keeps each
    teacher: str = ""  # a hash of its weights; empty also without a teacher


@dataclass(frozen=True)
class ClassRow(Strict):
    """Precision, recall and F1 of one class, in percent."""

    name: str
    precision: Percent  # the share of predictions of this class that are right
    recall: Percent  # the share of this class's images that are predicted as such
    f1: Percent  # the harmonic mean of both
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
    """Makes `out` ready to continue after `log`; returns the config of the whole run.

    It is `config` with the start and the command of the run, and the devices and commits of all
    epochs. The config of a finished run does not change.
    """
    first = read_config(out)
    write_table(out / names.TRAIN_LOG, log)
    if len(log) == config.flags["epochs"]:
        return first
    devices = dict.fromkeys([*first.device.split("; then "), config.device])
    commits = filter(None, dict.fromkeys([*first.commit.split(), config.commit]))
    config = replace(
        config,
        started=first.started,
        command=first.command,
        device="; then ".join(devices),
        commit=" ".join(commits),
    )
    write_config(out, config)
    return config


def best_epoch(log: Sequence[LogRow]) -> LogRow:
    """The epoch with the highest accuracy, the first one of equals."""
    return max(log, key=lambda row: row.evaluated_acc)


def best_checkpoint(out: Path, last: Checkpoint, log: Sequence[LogRow]) -> Checkpoint:
    """best.pt of the run that `last` continues after `log`.

    If the last epoch is the best one, best.pt is written again: the run may have been killed
    after last.pt.

    Raises:
        UserError: best.pt is of another network or epoch than the log's best.
    """
    best_row, path = best_epoch(log), out / names.BEST
    if best_row.epoch == last.epoch:
        best = replace(last, training=None)
        save_checkpoint(path, best)
        return best
    if not path.exists():
        raise UserError(f"{path} is missing; leave out --resume to start anew")
    best = load_checkpoint(path)
    same_run = ("network", "arguments", "classes", "mean", "std")
    expected = {name: getattr(last, name) for name in same_run}
    expected |= {name: getattr(best_row, name) for name in ("epoch", "test_acc", "val_acc")}
    for name, value in expected.items():
        if getattr(best, name) != value:
            raise UserError(
                f"{path} is of another run: its {name} is {getattr(best, name)}, not {value}; "
                "leave out --resume to start anew"
            )
    network_of(best, path)
    return best


def is_of(checkpoint: Checkpoint, config: Config) -> bool:
    """Whether `checkpoint` can be of the run of `config`, by its classes and its data set."""
    return checkpoint.classes == config.classes and checkpoint.data in ("", config.fingerprint)


def load_best(out: Path, config: Config) -> Checkpoint:
    """best.pt of the run in `out`; UserError unless it is of the run of `config`."""
    best = load_checkpoint(out / names.BEST)
    if not is_of(best, config):
        raise UserError(
            f"{out / names.BEST} and {names.CONFIG} are of different runs; put the files of one "
            "run there"
        )
    return best


def save_epoch(out: Path, config: Config, log: Sequence[LogRow], checkpoint: Checkpoint) -> None:
    """Writes the state after the last epoch in `log`, of which `checkpoint` is the network."""
    save_checkpoint(out / names.LAST, checkpoint)
    if best_epoch(log) is log[-1]:  # after last.pt, from which `best_checkpoint` can restore it
        save_checkpoint(out / names.BEST, replace(checkpoint, training=None))
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
        shutil.move(out / name, folder / name)  # which may be on another file system
    return folder


def read_log(out: Path) -> pd.DataFrame:
    """The epochs of a run, at least one, with the columns of `LogRow` that it has."""
    path = existing(out / names.TRAIN_LOG)
    try:
        return as_table(check_log(read_rows(path, LogRow)))
    except ValueError as error:
        raise UserError(f"{path} {error}") from error


def check_log(rows: list[LogRow]) -> list[LogRow]:
    """`rows`; ValueError unless they are epochs 1 and so on, all evaluated on the same images."""
    if not rows or [row.epoch for row in rows] != list(range(1, len(rows) + 1)):
        raise ValueError("has no epochs, or they are incomplete or out of order")
    table = as_table(rows)
    evaluated = any({f"{name}_loss", f"{name}_acc"} <= set(table) for name in names.EVALUATED)
    if not evaluated or table.isna().any(axis=None):
        raise ValueError("has neither test_loss and test_acc nor val_loss and val_acc throughout")
    return rows


def evaluated_on(log: pd.DataFrame) -> str:
    """What the run of a `log` was evaluated on: "test" or "val"."""
    return next(name for name in names.EVALUATED if f"{name}_acc" in log)


def write_config(out: Path, config: Config) -> None:
    text = json.dumps(asdict(config), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(out / names.CONFIG) as path:
        path.write_text(text, "utf-8", errors="replace")  # a path in a flag may be no UTF-8


def read_config(out: Path) -> Config:
    path = out / names.CONFIG
    try:
        values = json.loads(existing(path).read_text("utf-8"))
        json.dumps(values, allow_nan=False)  # raises ValueError if it has NaN, which is no JSON
        return validated(Config, values)
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is unreadable: {error}") from error


def write_confusion(out: Path, counts: np.ndarray, classes: Sequence[str]) -> None:
    """`counts` (classes, classes): rows true, columns predicted."""
    table = pd.DataFrame(counts, index=pd.Index(classes, name="true"), columns=list(classes))
    with replacing(out / names.CONFUSION_MATRIX) as path:
        table.to_csv(path, lineterminator="\n")


def read_confusion(out: Path) -> pd.DataFrame:
    """What `write_confusion` wrote: class names as index and columns; UserError if damaged."""
    path = existing(out / names.CONFUSION_MATRIX)
    try:
        cells = pd.read_csv(path, header=None, dtype=str, keep_default_na=False).to_numpy()
        counts = pd.DataFrame(cells[1:, 1:], cells[1:, 0], cells[0, 1:]).astype(int)
        if list(counts.index) != list(counts.columns) or (counts < 0).any(axis=None):
            raise ValueError("rows and columns differ, or a count is negative")
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is unreadable: {error}") from error
    return counts
