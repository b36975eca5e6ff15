"""Where images come from: CIFAR-10, an .npz file, an image folder, scikit-learn's digits.

    data = load("cifar10", Path("data"))

Whatever the source, the images end in memory as uint8 RGB of 32x32 pixels.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from cli import UserError

import cv2
import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

import download
from images import read_image, to_network_size
from model import IMAGE_SIZE


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in memory: images uint8 (N, 32, 32, 3) RGB, labels int64 (N,), class names.

    `evaluated` says what the test images are: "test", the test set, or "val", images held out
    from the training set.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    evaluated: str = "test"

    @cached_property
    def _mean_std(self) -> np.ndarray:
        """(2, 3): mean and standard deviation of the training pixels, each 0..1, per channel."""
        pixels = self.train_images.reshape(-1, IMAGE_SIZE, 3)
        return np.stack([m.ravel() for m in cv2.meanStdDev(pixels)]) / 255

    @property
    def mean(self) -> tuple[float, ...]:
        return tuple(self._mean_std[0].tolist())

    @property
    def std(self) -> tuple[float, ...]:
        return tuple(self._mean_std[1].tolist())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every pixel, label and class name; equal only for equal data."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()


def load(
    dataset: str,
    data_dir: Path = Path("data"),
    limit_train: int | None = None,
    holdout: int | None = None,
) -> ImageData:
    """Loads the images that `dataset` names, the training set cut to `limit_train` if given.

    Args:
        dataset: "cifar10", "digits", the path of an .npz file or of an image folder.
        data_dir: where CIFAR-10's official files lie or are downloaded to.
        limit_train: keep this many training images, the same random ones for every seed.
        holdout: of these, hold out this many in the place of the test set.

    Raises:
        UserError: there is no such data set, or it is broken; the message says where and how.
    """
    path = Path(dataset)
    if dataset == "cifar10":
        data = _load_cifar10(data_dir)
    elif dataset == "digits":
        data = _load_digits()
    elif path.is_dir():
        data = _load_folder(path)
    elif path.suffix == ".npz":
        data = _load_npz(path)
    else:
        raise UserError(
            f"--dataset {dataset}: neither cifar10 nor digits, nor an .npz file or a folder here"
        )
    if limit_train is not None and limit_train < len(data.train_labels):
        kept = np.sort(np.random.default_rng(0).permutation(len(data.train_labels))[:limit_train])
        limited = {"train_images": data.train_images[kept], "train_labels": data.train_labels[kept]}
        data = replace(data, **limited)
    return data if holdout is None else hold_out(data, holdout)


def hold_out(data: ImageData, count: int) -> ImageData:
    """`data` with `count` of its training images, each class with its share, in the place of the
    test set: the same ones for every seed, so that runs compare.

    Raises:
        UserError: there are too few images for that.
    """
    from sklearn.model_selection import train_test_split  # takes a second, for few runs

    try:
        kept, held = train_test_split(
            np.arange(len(data.train_labels)),
            test_size=count,
            stratify=data.train_labels,
            random_state=0,
        )
    except ValueError as error:
        raise UserError(
            f"--holdout {count} cannot be taken evenly from the {len(data.train_labels)} training "
            f"images of {len(data.classes)} classes; both parts need an image of each class, and "
            "each class needs two"
        ) from error
    kept.sort(), held.sort()
    return replace(
        data,
        train_images=data.train_images[kept],
        train_labels=data.train_labels[kept],
        test_images=data.train_images[held],
        test_labels=data.train_labels[held],
        evaluated="val",
    )


def _load_cifar10(data_dir: Path) -> ImageData:
    """CIFAR-10 from its official files, every one of them checked by md5."""
    extracted = data_dir / CIFAR10.base_folder
    archive = data_dir / CIFAR10.filename
    try:
        if not extracted.exists():
            if not archive.exists():
                download.fetch(archive, CIFAR10.tgz_md5)
            elif not check_integrity(str(archive), CIFAR10.tgz_md5):
                raise UserError(
                    f"{archive} is damaged: its md5 is not CIFAR-10's {CIFAR10.tgz_md5}; move it "
                    "away and run again to download it"
                )
            _extract(archive, extracted)
        train, test = CIFAR10(data_dir, train=True), CIFAR10(data_dir, train=False)
    except RuntimeError as error:  # torchvision's word for a file that fails its md5
        raise UserError(
            f"{extracted} is damaged: a file in it is missing or fails its md5; move the folder "
            f"away and run again to unpack {archive.name} afresh"
        ) from error
    except tarfile.TarError as error:
        raise UserError(f"{archive} cannot be unpacked: {error}; move it away") from error
    except OSError as error:
        raise UserError(f"--data-dir {data_dir}: {error.strerror or error}") from error
    return ImageData(
        "cifar10",
        train.data,
        np.array(train.targets, dtype=np.int64),
        test.data,
        np.array(test.targets, dtype=np.int64),
        tuple(train.classes),
    )


def _extract(archive: Path, folder: Path) -> None:
    """Unpacks `archive` so that `folder`, which it contains, is there whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=archive.parent) as scratch:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        (Path(scratch) / folder.name).rename(folder)


def _load_digits() -> ImageData:
    """scikit-learn's 1,797 handwritten 8x8 digits, enlarged; a fixed stratified 80/20 split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = (digits.images * (255 / 16)).round().astype(np.uint8)
    images = np.stack([to_network_size(Image.fromarray(image)) for image in grey])
    train, test = train_test_split(
        np.arange(len(images)), test_size=0.2, stratify=digits.target, random_state=0
    )
    labels = digits.target.astype(np.int64)
    names = tuple(str(name) for name in digits.target_names)
    return ImageData("digits", images[train], labels[train], images[test], labels[test], names)


def _load_npz(path: Path) -> ImageData:
    """An .npz file with MedMNIST's keys: grey or RGB images of any size, two classes or more."""
    keys = [f"{split}_{kind}" for split in ("train", "test") for kind in ("images", "labels")]
    if not zipfile.is_zipfile(path):
        reason = "no .npz file, or a damaged one" if path.exists() else "no such file"
        raise UserError(f"--dataset {path}: {reason}")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file]
            arrays = {key: file[key] for key in (*keys, "classes") if key in file}
    except Exception as error:  # a broken file can make numpy and zlib raise anything
        pickled = "pickle" in str(error).lower()
        reason = "holds pickled objects, which are not read" if pickled else f"unreadable: {error}"
        raise UserError(f"--dataset {path}: {reason}") from error
    if missing:
        raise UserError(f"--dataset {path}: has no {', '.join(missing)}")
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise UserError(f"--dataset {path}: {key} is no array")
    classes = arrays.pop("classes", np.array([], str))
    if classes.dtype.kind not in "USiu":
        raise UserError(f"--dataset {path}: classes are {classes.dtype}; needs names")
    if classes.dtype.kind == "S":
        classes = np.char.decode(classes, "utf-8", "replace")
    classes = tuple(classes.astype(str).ravel().tolist())
    for split in ("train", "test"):
        images, labels = f"{split}_images", f"{split}_labels"
        arrays[images] = _network_images(arrays[images], f"--dataset {path}: {images}")
        arrays[labels] = _class_numbers(arrays[labels], f"--dataset {path}: {labels}")
        if len(arrays[images]) != len(arrays[labels]) or not len(arrays[images]):
            raise UserError(
                f"--dataset {path}: {len(arrays[images])} {images} for {len(arrays[labels])} "
                f"{labels}; each image needs one label, and each split an image"
            )
    classes = classes or _numbered_classes(arrays["train_labels"], path)
    if len(set(classes)) < max(2, len(classes)):
        raise UserError(f"--dataset {path}: needs two classes or more, all of different names")
    for key in ("train_labels", "test_labels"):
        if arrays[key].max() >= len(classes):
            raise UserError(
                f"--dataset {path}: {key} out of range: {arrays[key].max()}, but there are "
                f"{len(classes)} classes, numbered from 0"
            )
    return ImageData(path.stem, **arrays, classes=classes)


def _network_images(images: np.ndarray, where: str) -> np.ndarray:
    """uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3) -> uint8 (N, 32, 32, 3) RGB."""
    if images.ndim == 5 or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise UserError(f"{where} of shape {images.shape}: 3D files are not supported, 2D only")
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise UserError(f"{where} of shape {images.shape}; needs (N, H, W) or (N, H, W, 3)")
    if images.dtype != np.uint8:
        raise UserError(f"{where} are {images.dtype}; needs uint8, 0 to 255")
    if images.shape[1:] == (IMAGE_SIZE, IMAGE_SIZE, 3):
        return images
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    resized = np.empty((len(images), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for index, image in enumerate(tqdm(images, "resizing images", disable=None, leave=False)):
        resized[index] = to_network_size(Image.fromarray(image))
    return resized


def _class_numbers(labels: np.ndarray, where: str) -> np.ndarray:
    """Integer labels (N,) or (N, 1), none negative -> int64 (N,)."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise UserError(f"{where} of shape {labels.shape}: multi-label files are not supported")
    if labels.ndim not in (1, 2):
        raise UserError(f"{where} of shape {labels.shape}; needs (N,) or (N, 1)")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where} are {labels.dtype}; needs whole numbers from 0")
    labels = labels.reshape(len(labels)).astype(np.int64)
    if labels.size and labels.min() < 0:
        raise UserError(f"{where} out of range: {labels.min()}; needs whole numbers from 0")
    return labels


def _numbered_classes(train_labels: np.ndarray, path: Path) -> tuple[str, ...]:
    """Names "0", "1" ... for labels that use each number up to their largest."""
    present = np.unique(train_labels)
    if len(present) <= present[-1]:
        absent = np.setdiff1d(np.arange(len(present) + 1), present)[0]
        raise UserError(
            f"--dataset {path}: train_labels out of range: they go up to {present[-1]} but "
            f"none is {absent}; number the classes from 0, or name them all in `classes`"
        )
    return tuple(map(str, present))


def _load_folder(root: Path) -> ImageData:
    """An image-folder tree: root/{train,test}/CLASS/FILE."""
    class_folders = {}
    for split in ("train", "test"):
        if not (root / split).is_dir():
            raise UserError(f"--dataset {root}: has no folder {split}/ (one folder a class in it)")
        class_folders[split] = [path for path in _visible(root / split) if path.is_dir()]
    classes, test_classes = ([path.name for path in paths] for paths in class_folders.values())
    if classes != test_classes:
        differing = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise UserError(
            f"--dataset {root}: train/ and test/ must have the same classes; only one of them has "
            f"{differing}"
        )
    if len(classes) < 2:
        raise UserError(f"--dataset {root}: train/ needs two class folders or more")
    files = {split: [_visible(path) for path in paths] for split, paths in class_folders.items()}
    for split, paths in class_folders.items():
        for path, found in zip(paths, files[split], strict=True):
            if not found:
                raise UserError(f"--dataset {root}: the class folder {path} is empty")
    arrays = {}
    total = sum(len(found) for split in files.values() for found in split)
    with tqdm(total=total, desc="reading images", unit="img", disable=None, leave=False) as bar:
        for split, by_class in files.items():
            labels = np.repeat(np.arange(len(classes)), [len(found) for found in by_class])
            images = np.empty((len(labels), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
            for index, path in enumerate(chain.from_iterable(by_class)):
                images[index] = _read_image(path)
                bar.update()
            arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    return ImageData(root.resolve().name, **arrays, classes=tuple(classes))


def _visible(folder: Path) -> list[Path]:
    """What lies in `folder`, by name, without hidden files such as .DS_Store."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read_image(path: Path) -> np.ndarray:
    try:
        return read_image(path)
    except ValueError as error:
        raise UserError(f"--dataset: {path}: {error}") from error
