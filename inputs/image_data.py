"""A data set in memory, as every source returns it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from console.errors import UserError
from recipe import IMAGE_SIZE


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in memory: images uint8 (N, 32, 32, 3) RGB, labels int64 (N,), class names.

    `split` says what the test images are: "test", the test set, or "val", images held out
    from the training set or a validation set. `has_names` is false if the source has no class
    names: `classes` are then the numbers from 0.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    split: str = "test"
    has_names: bool = True

    @cached_property
    def _mean_std(self) -> np.ndarray:
        """(2, 3): mean and standard deviation of the training pixels, 0..1, per channel."""
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

    def check_classes(self, expected: Sequence[str], source: Path) -> None:
        """Raises UserError unless the classes are `expected`, those of the checkpoint `source`.

        Without class names, their number is compared.
        """
        if not self.has_names and len(self.classes) == len(expected):
            return
        if list(self.classes) != list(expected):
            raise UserError(
                f"{source} has {len(expected)} classes ({', '.join(expected)}), {self.name} has "
                f"{len(self.classes)} ({', '.join(self.classes)}); give the data set that it was "
                "trained on"
            )


def check_class_names(classes: Sequence[str], where: str) -> tuple[str, ...]:
    """`classes` as a tuple; UserError unless they are two or more different names."""
    if len(set(classes)) < max(2, len(classes)):
        raise UserError(f"{where}: needs two classes or more, all of different names")
    return tuple(classes)


def limit_training_set(data: ImageData, count: int) -> ImageData:
    """`data` with `count` of its training images at most: the same random ones for every seed."""
    if count >= len(data.train_labels):
        return data
    kept = np.sort(np.random.default_rng(0).permutation(len(data.train_labels))[:count])
    return replace(data, train_images=data.train_images[kept], train_labels=data.train_labels[kept])


def hold_out(data: ImageData, count: int) -> ImageData:
    """`data` with `count` of its training images, stratified by class, in place of the test set.

    They are the same ones for every seed, so that runs compare.

    Raises:
        UserError: there are too few images for that.
    """
    from sklearn.model_selection import train_test_split  # here, because it takes a second

    try:
        kept, held = train_test_split(
            np.arange(len(data.train_labels)),
            test_size=count,
            stratify=data.train_labels,
            random_state=0,
        )
    except ValueError as error:
        raise UserError(
            f"cannot hold out {count} of {len(data.train_labels)} training images evenly over "
            f"{len(data.classes)} classes: both parts need an image of each class, and "
            "each class needs two"
        ) from error
    kept, held = np.sort(kept), np.sort(held)
    return replace(
        data,
        train_images=data.train_images[kept],
        train_labels=data.train_labels[kept],
        test_images=data.train_images[held],
        test_labels=data.train_labels[held],
        split="val",
    )
