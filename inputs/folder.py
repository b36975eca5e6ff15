"""Images from a tree with a folder per class.

    train/CLASS/... and test/CLASS/...    val/ is taken if there is no test/
    CLASS/...                             split 80/20, stratified by class, always the same way

Images may lie in subfolders of a class. Files that are not images are skipped and counted; a
damaged image stops the run. The 32x32 images of a large tree are kept in --data-dir, so that
the next start does not decode the files again.
"""

import os
import zipfile
from collections import Counter
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path

import joblib
import numpy as np
import PIL
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from console.errors import UserError
from console.files import replacing
from inputs import image_files
from inputs.image_data import ImageData, check_class_names
from recipe import IMAGE_SIZE

LARGE = 4_000_000  # bytes of files; decoding fewer takes less time than keeping the images
UNSPLIT = "all"


def load(dataset: str, data_dir: Path) -> ImageData:
    """The images of the folder `dataset`; classes are sorted by name."""
    root = Path(dataset)
    folders = _class_folders(root)
    names = [[folder.name for folder in below] for below in folders.values()]
    if names[0] != names[-1]:
        differing = ", ".join(sorted({*names[0]} ^ {*names[-1]}))
        raise UserError(
            f"--dataset {root}: {'/ and '.join(folders)}/ must have the same classes; only one of "
            f"them has {differing}"
        )
    classes = check_class_names(names[0], f"--dataset {root}")
    found = [
        (split, label, file)
        for split, below in folders.items()
        for label, folder in enumerate(below)
        for file in image_files.list_files(folder)
    ]
    files = [file for *_, file in found]
    images, is_image = _read(files, root, data_dir)
    skipped = [file.name for file, kept in zip(files, is_image, strict=True) if not kept]
    if skipped:
        kinds = Counter(_kind_of(name) for name in skipped)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        print(f"{root}: skipped files that are not images: {counts}", flush=True)
    splits = np.array([split for split, *_ in found], str)[is_image]
    labels = np.array([label for _, label, _ in found], np.int64)[is_image]
    for split, below in folders.items():
        for label, folder in enumerate(below):
            if not np.any((splits == split) & (labels == label)):
                raise UserError(f"--dataset {root}: the class folder {folder} has no images")
    if UNSPLIT in folders:
        train, test = _split(labels, classes, root)
    else:
        train, test = np.flatnonzero(splits == "train"), np.flatnonzero(splits != "train")
    return ImageData(
        root.resolve().name,
        *(images[train], labels[train], images[test], labels[test]),
        classes,
        split="val" if "val" in folders else "test",
    )


def _kind_of(name: str) -> str:
    return "hidden" if name.startswith(".") else Path(name).suffix.lower() or "no suffix"


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
    folders = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in folders if not image_files.is_clutter(path.name))


def _split(labels: np.ndarray, classes: tuple[str, ...], root: Path) -> list[np.ndarray]:
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
    return [np.sort(train), np.sort(test)]


def _read(files: list[os.DirEntry], root: Path, data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 (M, 32, 32, 3), and which of the N files are images, bool (N,)."""
    states = [_read_state(file, root) for file in files]
    if sum(size for _, size, _ in states) < LARGE:
        return _decode(files)
    reader = Path(image_files.__file__).read_bytes(), PIL.__version__, IMAGE_SIZE
    key = joblib.hash((states, reader))
    stored = data_dir / f"images-{joblib.hash(os.fsencode(root.resolve()))[:16]}.npz"
    damages = OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile
    with suppress(*damages), stored.open("rb") as stream:
        arrays = np.load(stream)
        if arrays["key"] == key:
            return arrays["images"], arrays["is_image"]
    images, is_image = _decode(files)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with replacing(stored) as path:
            np.savez(path, key=key, images=images, is_image=is_image)
    except (OSError, UserError) as error:
        print(f"{error}; the next start will read the images again", flush=True)
    return images, is_image


def _read_state(file: os.DirEntry, root: Path) -> tuple[str, int, int]:
    """What changes when a file does: its path in `root`, its size in bytes, its time of change."""
    path = file.path.removeprefix(str(root)).lstrip(os.sep)
    try:
        status = file.stat()
    except OSError:  # a link to nowhere
        return path, 0, 0
    return path, status.st_size, status.st_mtime_ns


def _decode(files: list[os.DirEntry]) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the files in threads, in which Pillow does not wait for others; as `_read`."""
    images = np.empty((len(files), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    is_image = np.zeros(len(files), bool)
    with ThreadPool(joblib.cpu_count()) as pool:
        decoded = pool.imap(_decode_file, [file.path for file in files])
        bar = tqdm(decoded, "reading images", len(files), unit="img", disable=None, leave=False)
        for index, image in enumerate(bar):
            if image is not None:
                images[index], is_image[index] = image, True
    return images[is_image], is_image


def _decode_file(path: str) -> np.ndarray | None:
    """The image uint8 (32, 32, 3); None for a file that is not and does not claim to be one."""
    if image_files.is_clutter(Path(path).name):
        return None
    try:
        return image_files.read_image(path)
    except image_files.NotAnImage as error:
        if Path(path).suffix.lower() not in image_files.image_suffixes():
            return None
        raise UserError(f"--dataset: {path}: {error}") from error
    except ValueError as error:
        raise UserError(f"--dataset: {path}: {error}") from error
