"""Images and labels from an .npz file with the keys of MedMNIST."""

import math
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from console.errors import UserError
from inputs.image_data import ImageData, check_class_names
from inputs.image_files import to_network_size
from recipe import IMAGE_SIZE

KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def load(dataset: str, _data_dir: Path) -> ImageData:
    """Grey or RGB images of any size, one label each, two classes or more."""
    path = Path(dataset)
    arrays = _read_arrays(path)
    classes = _class_names(arrays.pop("classes", np.array([], str)), path)
    for split in ("train", "test"):
        images, labels = f"{split}_images", f"{split}_labels"
        arrays[labels] = _class_numbers(arrays[labels], f"--dataset {path}: {labels}")
        if len(arrays[images]) != len(arrays[labels]) or not len(arrays[images]):
            raise UserError(
                f"--dataset {path}: {len(arrays[images])} {images} for {len(arrays[labels])} "
                f"{labels}; each image needs one label, and each split an image"
            )
    has_names = bool(classes)
    classes = classes or _numbered_classes(arrays["train_labels"], path)
    check_class_names(classes, f"--dataset {path}")
    for key in ("train_labels", "test_labels"):
        if arrays[key].max() >= len(classes):
            raise UserError(
                f"--dataset {path}: {key} out of range: {arrays[key].max()}, but there are "
                f"{len(classes)} classes, numbered from 0"
            )
    return ImageData(path.stem, **arrays, classes=classes, has_names=has_names)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of KEYS and, if it is there, of "classes"; images in the network's size."""
    if not zipfile.is_zipfile(path):
        raise UserError(f"--dataset {path}: not an .npz file, or a damaged one")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if missing := [key for key in KEYS if key not in file]:
                raise UserError(f"--dataset {path}: has no {', '.join(missing)}")
            arrays = {}
            for key in (*KEYS, "classes"):
                if key in file:
                    read = _read_images if key.endswith("images") else _read_array
                    arrays[key] = read(file, key, f"--dataset {path}: {key}")
            return arrays
    except UserError:
        raise
    except Exception as error:  # a broken file can make numpy and zlib raise anything
        pickled = "pickle" in str(error).lower()
        reason = "holds pickled objects, which are not read" if pickled else f"unreadable: {error}"
        raise UserError(f"--dataset {path}: {reason}") from error


def _read_array(file: np.lib.npyio.NpzFile, key: str, where: str) -> np.ndarray:
    array = file[key]
    if not isinstance(array, np.ndarray):
        raise UserError(f"{where} is not an array")
    return array


def _read_images(file: np.lib.npyio.NpzFile, key: str, where: str) -> np.ndarray:
    """uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3) -> uint8 (N, 32, 32, 3) RGB.

    They are read one by one: a file of images of 224x224 pixels takes 2 GB of memory as a whole.
    """
    with file.zip.open(f"{key}.npy") as stream:
        if stream.peek(6)[:6] != np.lib.format.MAGIC_PREFIX:
            raise UserError(f"{where} is not an array")
        headers = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = headers[np.lib.format.read_magic(stream)[0] - 1](stream)
        if dtype.hasobject:
            raise ValueError("pickled objects")
        if shape[3:] not in ((), (1,), (3,)) or len(shape) < 3 or 0 in shape[1:]:
            needed = "(N, H, W) or (N, H, W, 3): channels last, no 3D volumes"
            raise UserError(f"{where} of shape {shape}; needs {needed}")
        if dtype != np.uint8:
            raise UserError(f"{where} are {dtype}; needs uint8, 0 to 255")
        if shape[1:] == (IMAGE_SIZE, IMAGE_SIZE, 3):
            return np.ascontiguousarray(file[key])
        side = shape[1:3] if shape[3:] == (1,) else shape[1:]
        parts = (stream.read(math.prod(side)) for _ in range(shape[0]))
        images = (np.frombuffer(part, np.uint8).reshape(side) for part in parts)
        if is_fortran:
            images = file[key].reshape(shape[0], *side)
        bar = tqdm(images, "resizing images", shape[0], disable=None, leave=False)
        return np.stack([to_network_size(Image.fromarray(image)) for image in bar])


def _class_names(classes: np.ndarray, path: Path) -> tuple[str, ...]:
    if classes.dtype.kind not in "USiu":
        raise UserError(f"--dataset {path}: classes are {classes.dtype}; needs names")
    if classes.dtype.kind == "S":
        classes = np.char.decode(classes, "utf-8", "replace")
    return tuple(classes.astype(str).ravel().tolist())


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
    """Names "0", "1" and so on, for labels that use each number up to their largest."""
    present = np.unique(train_labels)
    if len(present) <= present[-1]:
        absent = np.setdiff1d(np.arange(len(present) + 1), present)[0]
        raise UserError(
            f"--dataset {path}: train_labels out of range: they go up to {present[-1]} but "
            f"none is {absent}; number the classes from 0, or name them all in `classes`"
        )
    return tuple(map(str, present))
