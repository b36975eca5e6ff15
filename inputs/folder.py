"""Images from a tree with a folder per class.

    train/CLASS/... and test/CLASS/...    val/ is taken if there is no test/
    CLASS/...                             split 80/20, stratified by class, always the same way

Images may lie in subfolders of a class. Files that are not images are skipped and counted; a
damaged image stops the run. The 32x32 images of a large tree are kept in --data-dir, so that
the next start does not decode the files again.
"""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import joblib
import numpy as np
import PIL
from filelock import FileLock
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from console.errors import UserError
from inputs import image_files
from inputs.image_data import ImageData, check_class_names
from inputs.workers import ignore_interrupts
from recipe import IMAGE_SIZE

LARGE = 4_000_000  # bytes of files; decoding fewer takes less time than starting processes
BATCH = 8  # files that a worker process decodes at a time; a stop waits for them
UNSPLIT = "all"


def load(dataset: str, data_dir: Path) -> ImageData:
    """The images of the folder `dataset`; classes are sorted by name."""
    root = Path(dataset)
    folders = _class_folders(root)
    classes = _class_names(folders, root)
    found = [
        (split, label, file)
        for split in folders
        for label, folder in enumerate(folders[split])
        for file in image_files.files_below(folder)
    ]
    splits, labels, files = map(list, zip(*found, strict=True)) if found else ([], [], [])
    images, is_image = _read(files, root, data_dir)
    _print_skipped([file for file, kept in zip(files, is_image, strict=True) if not kept], root)
    splits, labels = np.array(splits, str)[is_image], np.array(labels, np.int64)[is_image]
    for split in folders:
        for label, folder in enumerate(folders[split]):
            if not np.any((splits == split) & (labels == label)):
                raise UserError(f"--dataset {root}: the class folder {folder} has no images")
    if UNSPLIT in folders:
        train, test = _random_split(labels, classes, root)
    else:
        train, test = np.flatnonzero(splits == "train"), np.flatnonzero(splits != "train")
    return ImageData(
        root.resolve().name,
        *(images[train], labels[train], images[test], labels[test]),
        classes,
        split="val" if "val" in folders else "test",
    )


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """The class folders of "train" and "test" or "val", or else of UNSPLIT.

    A folder with such a name, "Training" and "seg_train" included, is a class only if it has no
    folders itself: a network shall not learn to tell training images from test images.
    """
    folders = {folder.name: _subfolders(folder) for folder in _subfolders(root)}
    evaluated = next((name for name in ("test", "val") if folders.get(name)), None)
    if folders.get("train") and evaluated:
        if evaluated == "test" and folders.get("val"):
            print(f"{root}: val/ is not used, because test/ exists", flush=True)
        return {name: folders[name] for name in ("train", evaluated)}
    with_folders = [name for name, below in folders.items() if below]
    is_split = any("train" in name.lower() or name in ("test", "val") for name in with_folders)
    if is_split or folders.keys() <= {"train", "test", "val"}:
        raise UserError(
            f"--dataset {root}: needs folders train/CLASS/ and test/CLASS/ (or val/CLASS/), or a "
            f"folder CLASS/ for each class; it has {', '.join(folders) or 'none'}"
        )
    return {UNSPLIT: _subfolders(root)}


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name[0] != "." and path.is_dir())


def _class_names(folders: dict[str, list[Path]], root: Path) -> tuple[str, ...]:
    first, last = ([folder.name for folder in list(folders.values())[i]] for i in (0, -1))
    if first != last:
        differing = ", ".join(sorted({*first} ^ {*last}))
        raise UserError(
            f"--dataset {root}: {'/ and '.join(folders)}/ must have the same classes; only one of "
            f"them has {differing}"
        )
    return check_class_names(first, f"--dataset {root}")


def _print_skipped(files: Sequence[os.DirEntry], root: Path) -> None:
    if files:
        kinds = Counter(Path(file.name).suffix.lower() or "no suffix" for file in files)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        print(f"{root}: skipped files that are not images: {counts}", flush=True)


def _random_split(
    labels: np.ndarray, classes: Sequence[str], root: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and test images, the same ones for every seed."""
    try:
        train, test = train_test_split(
            np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0
        )
    except ValueError as error:
        counts = np.bincount(labels)
        raise UserError(
            f"--dataset {root}: too few images to split ({classes[counts.argmin()]} has "
            f"{counts.min()}); give each class 5 or more, or split them yourself into "
            "train/CLASS/ and test/CLASS/"
        ) from error
    print(
        f"{root} has no train/ and test/: split 80/20 into {len(train):,} training and "
        f"{len(test):,} test images, stratified by class",
        flush=True,
    )
    return np.sort(train), np.sort(test)


def _read(
    files: Sequence[os.DirEntry], root: Path, data_dir: Path
) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 (M, 32, 32, 3), and which of the N files are images, bool (N,)."""
    states = [_state(file, root) for file in files]
    if sum(size for _, size, _ in states) < LARGE:
        return _decode(files, root, workers=0)
    reader = Path(image_files.__file__).read_bytes(), PIL.__version__, IMAGE_SIZE
    key = joblib.hash((states, reader))
    root_hash = joblib.hash(os.fsencode(root.resolve()))
    stored = data_dir / f"images-{root_hash[:16]}.npz"
    with suppress(Exception), stored.open("rb") as stream:  # it may be missing or damaged
        arrays = np.load(stream, allow_pickle=False)
        if arrays["key"] == key:
            return arrays["images"], arrays["is_image"]
    images, is_image = _decode(files, root, workers=joblib.cpu_count())
    store(stored, key=key, images=images, is_image=is_image)
    return images, is_image


def _state(file: os.DirEntry, root: Path) -> tuple[str, int, int]:
    """What changes when a file does: its path in `root`, its size in bytes, its time of change."""
    path = file.path.removeprefix(str(root)).lstrip(os.sep)
    try:
        status = file.stat()
    except OSError:  # a link to nowhere
        return path, 0, 0
    return path, status.st_size, status.st_mtime_ns


def store(path: Path, **arrays: np.ndarray | str) -> None:
    """Writes an .npz file beside `path` and moves it there; prints why if that fails."""
    beside = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # other processes write the same file
            with beside.open("wb") as stream:
                np.savez(stream, **arrays)
            beside.replace(path)
    except OSError as error:
        print(f"{path} cannot be written, so the next start reads the files again: {error}")
        with suppress(OSError):
            beside.unlink()


class _Files(Dataset):
    """Item -> the image uint8 (32, 32, 3), None if the file is no image, or the error message."""

    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray | str | None:
        path = self.paths[index]
        try:
            return image_files.read_image(path)
        except ValueError as error:
            is_other = isinstance(error, image_files.NotAnImage)
            named_as_image = Path(path).suffix.lower() in image_files.image_suffixes()
            return None if is_other and not named_as_image else f"{path}: {error}"


def _decode(
    files: Sequence[os.DirEntry], root: Path, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the files in `workers` processes, or in this one if that is 0; returns as `_read`."""
    paths = [file.path for file in files]
    loader = DataLoader(
        _Files(paths), BATCH, num_workers=workers, collate_fn=list, worker_init_fn=ignore_interrupts
    )
    images = np.empty((len(paths), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    is_image = np.empty(len(paths), bool)
    results = chain.from_iterable(loader)
    bar = tqdm(results, "reading images", len(paths), unit="img", disable=None, leave=False)
    try:
        for index, result in enumerate(bar):
            if isinstance(result, str):
                raise UserError(f"--dataset: {result}")
            is_image[index] = result is not None
            if result is not None:
                images[index] = result
    except RuntimeError as error:  # torch's, about a worker
        raise UserError(f"--dataset {root}: {str(error).splitlines()[0]}") from error
    return (images if is_image.all() else images[is_image]), is_image
