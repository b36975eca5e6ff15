"""Images from a tree with a folder per class: train/CLASS/FILE and test/CLASS/FILE."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from console.errors import UserError
from inputs.image_data import ImageData
from inputs.image_files import read_image
from recipe import IMAGE_SIZE

Files = list[list[Path]]  # of each class


def load(dataset: str, _data_dir: Path) -> ImageData:
    """The images of the folder `dataset`; classes are sorted by name."""
    root = Path(dataset)
    classes, train_files = _files_by_class(root, "train")
    test_classes, test_files = _files_by_class(root, "test")
    if classes != test_classes:
        differing = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise UserError(
            f"--dataset {root}: train/ and test/ must have the same classes; only one of them has "
            f"{differing}"
        )
    if len(classes) < 2:
        raise UserError(f"--dataset {root}: train/ needs two class folders or more")
    train, test = _read(train_files), _read(test_files)
    return ImageData(root.resolve().name, *train, *test, classes=tuple(classes))


def _files_by_class(root: Path, split: str) -> tuple[list[str], Files]:
    if not (root / split).is_dir():
        raise UserError(f"--dataset {root}: has no folder {split}/ with a folder for each class")
    folders = [path for path in _visible(root / split) if path.is_dir()]
    files = [_visible(folder) for folder in folders]
    for folder, found in zip(folders, files, strict=True):
        if not found:
            raise UserError(f"--dataset {root}: the class folder {folder} is empty")
    return [folder.name for folder in folders], files


def _visible(folder: Path) -> list[Path]:
    """The contents of `folder` by name, without hidden files such as .DS_Store."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read(files_by_class: Files) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 32, 32, 3) and labels int64 (N,)."""
    labels = np.repeat(np.arange(len(files_by_class)), [len(files) for files in files_by_class])
    images = np.empty((len(labels), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    paths = [path for files in files_by_class for path in files]
    bar = tqdm(paths, "reading images", unit="img", disable=None, leave=False)
    for index, path in enumerate(bar):
        try:
            images[index] = read_image(path)
        except ValueError as error:
            raise UserError(f"--dataset: {path}: {error}") from error
    return images, labels
