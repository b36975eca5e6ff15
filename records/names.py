"""Names of the files that a run or a measurement leaves in its folder."""

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from console.files import in_repository
from console.flags import setting

RESULTS = in_repository("results")  # the published run
README = in_repository("README.md")

TRAIN_LOG = Path("train_log.csv")  # a row per finished epoch, see `results.LogRow`
CONFIG = Path("config.json")  # a `results.Config`
LAST = Path("last.pt")  # a `checkpoints.Checkpoint` to resume from
BEST = Path("best.pt")  # a `checkpoints.Checkpoint` to use: the epoch with the best accuracy
CONFUSION_MATRIX = Path("confusion_matrix.csv")  # of best.pt: counts, rows true, columns predicted
CLASS_REPORT = Path("class_report.csv")  # of best.pt: a `results.ClassRow` per class
TENSORBOARD = Path("tensorboard")
PLOTS = Path("plots")
ACCURACY_CURVES = PLOTS / "acc_curves.png"
LOSS_CURVES = PLOTS / "loss_curves.png"
CONFUSION_PLOT = PLOTS / "cm.png"
TEST_GRID = PLOTS / "test_samples_grid.png"
MISTAKES_GRID = PLOTS / "misclassified_grid.png"
AUGMENTED_GRID = PLOTS / "augmented_samples_grid.png"
BLOCK_DIAGRAM = PLOTS / "network.png"
RECEPTIVE_FIELD = PLOTS / "receptive_field.png"
TEST_TILES = PLOTS / "test_samples"
AUGMENTED_TILES = PLOTS / "augmented_samples"
ARCHIVE = Path("archive")  # earlier runs
LOCK = Path(".lock")  # stays in the folder; the lock itself ends with its process

RUN_FILES = (TRAIN_LOG, CONFIG, LAST, BEST, CONFUSION_MATRIX, CLASS_REPORT, TENSORBOARD)
RUN_PICTURES = (
    *(ACCURACY_CURVES, LOSS_CURVES, CONFUSION_PLOT, BLOCK_DIAGRAM, RECEPTIVE_FIELD),
    *(TEST_GRID, MISTAKES_GRID, AUGMENTED_GRID, TEST_TILES, AUGMENTED_TILES),
)
TILES = 8  # in each of the two folders, or as many as there are images

# a trained network for other programs, and what the page in demo/ shows of it: export.py
ONNX = Path("net.onnx")
PAGE_FACTS = Path("net.json")

# pictures that are not part of a run
RANGE_TEST = PLOTS / "find_lr.png"  # train.py --find-lr
ACCURACIES = PLOTS / "accuracies.png"  # experiments.record
COMPARISON = PLOTS / "comparison.png"  # update_readme.py --compare
AUGMENTATION_DEMO = PLOTS / "aug_demo.png"  # visualize_augmentations.py

SPLITS = {"test": "test", "val": "validation"}  # what a run is evaluated on, and its name

# tables of many runs, whose rows are dataclasses of runs.py
RUNS = Path("runs.csv")
RECORDED_LOGS = Path("runs")  # the logs of the runs in runs.csv
BENCH = Path("bench.csv")
MARKS = Path("marks.csv")


@dataclass(frozen=True)
class CheckpointFlag:
    """The flag --checkpoint, for every script that uses a trained network."""

    checkpoint: Path = setting(RESULTS / BEST, "the trained network", metavar="FILE.pt")


def name_tile(index: int, class_name: str) -> str:
    """ "img_00_cat.png"; safe as a file name and in a link, whatever the class is called."""
    return f"img_{index:02d}_{_safe(class_name) or 'class'}.png"


def list_tiles(folder: Path) -> list[Path]:
    """The files in `folder` that `name_tile` names, in their order; none if there is no folder."""
    return sorted(folder.glob("img_[0-9]*_*.png"))


def find_unused(folder: Path, name: str) -> Path:
    """ "cat.png" in `folder`, safe like `name_tile`, or "cat-2.png" and so on if it exists."""
    stem = _safe(name) or "image"
    stems = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    paths = (folder / f"{each}.png" for each in stems)
    return next(path for path in paths if not os.path.lexists(path))


def _safe(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-")[:40]
