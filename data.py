"""How images become batches: augmentation by Albumentations, and the loaders.

    data = sources.load("cifar10", Path("data"))
    loader = train_loader(data, batch_size=128, seed=0, workers=2)
    loader.sampler.epoch = 1
    for images, labels in loader:                 # uint8 (B, 3, 32, 32), int64 (B,)
        images = normalise(images.to(device), data.mean, data.std)

Augmentation is a pure function of (seed, epoch, batch number): neither the number of workers
nor a resume changes what an image looks like in epoch 7.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up of newer versions at import

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sources import ImageData

cv2.setNumThreads(1)  # here, so that spawned workers, which import this file, obey it as well

# The one definition of the augmentation; the hole is filled with the training mean.
AUGMENTATION = {
    "flip_p": 0.5,
    "affine_p": 0.5,
    "shift_limit": 0.0625,  # of the image's side
    "scale_limit": 0.1,
    "rotate_limit": 15,  # degrees
    "hole_p": 0.5,
    "hole_size": 8,  # pixels
}


def batch_seed(seed: int, epoch: int, number: int) -> int:
    """A 32-bit seed for one batch, well mixed from where it stands in the run."""
    return int(np.random.SeedSequence([seed, epoch, number]).generate_state(1)[0])


def build_pipeline(mean: tuple[float, ...]) -> A.Compose:
    """The training augmentation for uint8 (32, 32, 3) images; `mean` (0..1) fills the hole."""
    a = AUGMENTATION
    with warnings.catch_warnings():
        # Albumentations advises Affine; ShiftScaleRotate is what the assignment names.
        warnings.filterwarnings("ignore", "ShiftScaleRotate is a special case of Affine")
        affine = A.ShiftScaleRotate(
            shift_limit=a["shift_limit"],
            scale_limit=a["scale_limit"],
            rotate_limit=a["rotate_limit"],
            border_mode=cv2.BORDER_REFLECT_101,
            p=a["affine_p"],
        )
    hole = A.CoarseDropout(
        num_holes_range=(1, 1),
        hole_height_range=(a["hole_size"], a["hole_size"]),
        hole_width_range=(a["hole_size"], a["hole_size"]),
        fill=tuple(255 * m for m in mean),
        p=a["hole_p"],
    )
    return A.Compose([A.HorizontalFlip(p=a["flip_p"]), affine, hole])


class EpochBatches(Sampler):
    """Which images make which batch: items (epoch, batch number, indices) of the set `epoch`."""

    def __init__(self, size: int, batch_size: int, seed: int):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch = 1

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, int, np.ndarray]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for number in range(len(self)):
            start = number * self.batch_size
            yield self.epoch, number, order[start : start + self.batch_size]


class AugmentedBatches(Dataset):
    """Item (epoch, batch number, indices) -> uint8 (B, 3, 32, 32) in channels-last, int64 (B,).

    One item is a whole batch: Albumentations keeps random state of its own, which workers
    would repeat among them, so each batch seeds it, and once a batch that costs next to nothing.
    """

    def __init__(self, data: ImageData, seed: int):
        self.images, self.labels = data.train_images, data.train_labels
        self.pipeline = build_pipeline(data.mean)
        self.seed = seed

    def __getitem__(self, item: tuple[int, int, np.ndarray]) -> tuple[Tensor, Tensor]:
        epoch, number, indices = item
        self.pipeline.set_random_seed(batch_seed(self.seed, epoch, number))
        images = np.stack([self.pipeline(image=self.images[i])["image"] for i in indices])
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(self.labels[indices])


def train_loader(
    data: ImageData, batch_size: int, seed: int, workers: int, pin_memory: bool = False
) -> DataLoader:
    """Augmented batches of the epoch that `loader.sampler.epoch` says; the last may be smaller."""
    return DataLoader(
        AugmentedBatches(data, seed),
        sampler=EpochBatches(len(data.train_labels), batch_size, seed),
        batch_size=None,  # an item is a batch already
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=_leave_interrupts_to_the_parent,
    )


def _leave_interrupts_to_the_parent(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def evaluation_batches(data: ImageData, batch_size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
    """The test set in order, unaugmented: uint8 (B, 3, 32, 32) in channels-last, int64 (B,)."""
    images = torch.from_numpy(data.test_images).permute(0, 3, 1, 2)
    yield from zip(
        images.split(batch_size), torch.from_numpy(data.test_labels).split(batch_size), strict=True
    )


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 of mean 0 and standard deviation 1 over the training set."""
    mean_, std_ = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (mean, std))
    return (images / 255 - mean_) / std_.clamp(min=1e-6)
