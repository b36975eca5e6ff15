"""What a run leaves in its folder: file names, CSV columns, checkpoint keys, writing, reading.

    train_log.csv           a row per finished epoch, the columns of `LogRow`
    config.json             the fields of `Config`
    last.pt                 a `Checkpoint` to resume from
    best.pt                 a `Checkpoint` to use: the epoch of the best accuracy
    confusion_matrix.csv    of best.pt on the test set: counts, rows true, columns predicted
    class_report.csv        of best.pt on the test set: a row per class, the columns of `ClassRow`
    plots/                  pictures

Every file is written beside its place and then moved over it: a reader never sees half a file,
and a crash never costs the file that was there before.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import UserError

from storage import as_dataclass, existing, read_table, replacing, write_table

if TYPE_CHECKING:  # the functions that use them import them: scripts check their flags first
    import numpy as np
    import pandas as pd
    import torch

TRAIN_LOG = Path("train_log.csv")
CONFIG = Path("config.json")
LAST = Path("last.pt")
BEST = Path("best.pt")
CONFUSION_MATRIX = Path("confusion_matrix.csv")
CLASS_REPORT = Path("class_report.csv")
TENSORBOARD = Path("tensorboard")
PLOTS = Path("plots")
ACCURACY_CURVES = PLOTS / "acc_curves.png"
LOSS_CURVES = PLOTS / "loss_curves.png"
CONFUSION_PLOT = PLOTS / "cm.png"
TEST_GRID = PLOTS / "test_samples_grid.png"
AUGMENTED_GRID = PLOTS / "augmented_samples_grid.png"
MISTAKES_GRID = PLOTS / "misclassified_grid.png"
TEST_TILES = PLOTS / "test_samples"
AUGMENTED_TILES = PLOTS / "augmented_samples"
RANGE_TEST = PLOTS / "find_lr.png"  # train.py --find-lr's, no part of a run
COMPARISON = PLOTS / "comparison.png"  # update_readme.py --compare's, no part of a run
AUGMENTATION_DEMO = PLOTS / "aug_demo.png"  # visualize_augmentations.py's, no part of a run
ARCHIVE = Path("archive")
TILES = 8  # in each of the two folders, or as many as there are images

EVALUATED = {"test": "test", "val": "validation"}  # what a run is evaluated on: short, in words

RUN_FILES = (TRAIN_LOG, CONFIG, LAST, BEST, CONFUSION_MATRIX, CLASS_REPORT, TENSORBOARD)
RUN_PICTURES = (
    *(ACCURACY_CURVES, LOSS_CURVES, CONFUSION_PLOT),
    *(TEST_GRID, MISTAKES_GRID, AUGMENTED_GRID, TEST_TILES, AUGMENTED_TILES),
)


@dataclass(frozen=True, kw_only=True)
class LogRow:
    """One epoch: accuracies in percent, losses as mean cross-entropy in nats.

    A run is evaluated on the test set or, with --holdout, on held-out training images ("val");
    what it is not evaluated on is None here, and no column of the file.
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
    def evaluated_acc(self) -> float:
        return self.test_acc if self.val_acc is None else self.val_acc


@dataclass(frozen=True)
class Config:
    """What was run on what; times are local, ISO 8601."""

    command: str
    started: str
    updated: str
    flags: dict[str, Any]
    augmentation: dict[str, Any]
    dataset: str
    fingerprint: str
    train_images: int
    test_images: int
    evaluated: str  # "test", or "val" if those are held-out training images
    classes: list[str]
    mean: list[float]
    std: list[float]
    parameters: int
    device: str
    versions: dict[str, str]


@dataclass(frozen=True)
class ClassRow:
    """How well one class is told, in percent."""

    name: str
    precision: float  # of the images taken for it, those that are of it
    recall: float  # of its images, those taken for it
    f1: float  # their harmonic mean
    images: int


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint adds to its network so that training can go on as if never stopped."""

    settings: dict[str, Any]  # of the run; a resume must have the same
    log: list[dict[str, float | None]]  # the finished epochs' LogRows
    optimizers: list[dict[str, Any]]
    schedules: list[dict[str, Any]]
    scaler: dict[str, Any]  # of float16 gradients; empty where there are none


@dataclass(frozen=True)
class Checkpoint:
    """All that is needed to use the network, and in last.pt to train it further."""

    model: dict[str, torch.Tensor]
    width: float
    classes: list[str]
    mean: list[float]
    std: list[float]
    epoch: int
    test_acc: float | None
    val_acc: float | None
    training: TrainingState | None = None


def check_writable(folder: Path, flag: str = "--out") -> None:
    """Makes `folder`, which `flag` named; raises UserError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{flag}: {folder} cannot be written: {error.strerror}") from error


def archive_earlier_run(out: Path) -> Path | None:
    """Moves the run that lies in `out`, if one does, to archive/<its start time>/ there."""
    present = [name for name in RUN_FILES if (out / name).exists()]
    if not present:
        return None
    try:
        started = re.sub(r"\W", "-", read_config(out).started)
    except UserError:
        oldest = min((out / name).stat().st_mtime for name in present)
        started = datetime.fromtimestamp(oldest).strftime("%Y-%m-%dT%H-%M-%S")
    # the start time's file last: killed meanwhile, the next attempt fills the same folder up
    names = sorted((*RUN_FILES, *RUN_PICTURES), key=lambda name: name == CONFIG)
    return archive(out, names, started)


def archive(out: Path, names: Sequence[Path], folder_name: str) -> Path:
    """Moves what is there of `names` to a folder of that name, or one beside it, in archive/."""
    present = [name for name in names if (out / name).exists()]
    folder, copies = out / ARCHIVE / folder_name, 1
    while any((folder / name).exists() for name in present):
        copies += 1
        folder = out / ARCHIVE / f"{folder_name}-{copies}"
    for name in present:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).rename(folder / name)
    return folder


def write_log(out: Path, rows: Sequence[LogRow]) -> None:
    write_table(out / TRAIN_LOG, LogRow, rows)


def read_log(out: Path) -> pd.DataFrame:
    """The epochs of a run, at least one, with the columns of `LogRow` that it has."""
    log = read_table(out / TRAIN_LOG, LogRow)
    if not any({f"{name}_loss", f"{name}_acc"} <= set(log) for name in EVALUATED):
        raise UserError(f"{out / TRAIN_LOG} has neither test_loss and test_acc nor the val_ ones")
    return log


def evaluated(log: pd.DataFrame) -> str:
    """What the run of a `log` was evaluated on: "test" or "val"."""
    return next(name for name in EVALUATED if f"{name}_acc" in log)


def write_config(out: Path, config: Config) -> None:
    with replacing(out / CONFIG) as path:
        path.write_text(json.dumps(asdict(config), indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_config(out: Path) -> Config:
    try:
        return as_dataclass(Config, json.loads(existing(out / CONFIG).read_text("utf-8")))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{out / CONFIG} is unreadable: {error}") from error


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    import torch

    training = checkpoint.training and vars(checkpoint.training)
    buffer = io.BytesIO()  # torch says of a full disk less clearly than write_bytes does
    torch.save({**vars(checkpoint), "training": training}, buffer)
    with replacing(path) as beside:
        beside.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads `path` on the CPU, without unpickling code; UserError if it is no checkpoint."""
    import torch

    try:
        with zipfile.ZipFile(existing(path)) as archive:
            if archive.testzip():  # torch itself does not look at the checksums
                raise zipfile.BadZipFile
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["training"] is not None:
            content["training"] = as_dataclass(TrainingState, content["training"])
        checkpoint = as_dataclass(Checkpoint, content, torch=torch)
        channels = {len(checkpoint.mean), len(checkpoint.std)}
        if not (0 < checkpoint.width < 100 and channels == {3} and len(checkpoint.classes) > 1):
            raise ValueError("its width, its number of channels or of classes")
        return checkpoint
    except UserError:
        raise
    except Exception as error:  # a broken file can make the unpickler raise anything
        raise UserError(
            f"{path} is no checkpoint of this program, or is damaged; move it away and train anew"
        ) from error


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Puts the weights of `checkpoint`, which came from `path`, into `model`."""
    try:
        model.load_state_dict(checkpoint.model)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds the weights of another network than this") from error


def write_confusion(out: Path, counts: np.ndarray, classes: Sequence[str]) -> None:
    """`counts` (classes, classes): rows true, columns predicted."""
    import pandas as pd

    table = pd.DataFrame(counts, index=pd.Index(classes, name="true"), columns=list(classes))
    with replacing(out / CONFUSION_MATRIX) as path:
        table.to_csv(path, lineterminator="\n")


def write_class_report(
    out: Path, labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]
) -> None:
    """From each test image's class and what it was taken for, both int64 (N,)."""
    from sklearn.metrics import precision_recall_fscore_support

    figures = precision_recall_fscore_support(
        labels, predictions, labels=range(len(classes)), zero_division=0
    )
    rows = [
        ClassRow(name, *(round(100 * float(share), 2) for share in shares), int(images))
        for name, *shares, images in zip(classes, *figures, strict=True)
    ]
    write_table(out / CLASS_REPORT, ClassRow, rows)


def read_confusion(out: Path) -> pd.DataFrame:
    """What `write_confusion` wrote: class names as index and columns."""
    import pandas as pd

    return pd.read_csv(existing(out / CONFUSION_MATRIX), index_col=0)


def tile_name(index: int, class_name: str) -> str:
    """ "img_00_cat.png"; whatever the class is called, the name is safe in a folder and a link."""
    safe = re.sub(r"\W+", "-", class_name).strip("-")[:40]
    return f"img_{index:02d}_{safe or 'class'}.png"
