"""Data sets by name, and training batches from them, augmented anew in every epoch.

    data = load("cifar10")
    batches = training_batches(data, Recipe(), torch.device("cpu"), workers="auto")
    for images, labels, _ in batches.epoch(1):    # uint8 (B, 3, 32, 32), int64 (B,)
        ...

Augmentation and order are a pure function of (seed, epoch, batch number): neither the number of
workers nor a resume changes what an image looks like in epoch 7.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing.util import Finalize
from pathlib import Path
from threading import Thread

import numpy as np
import torch
from joblib import cpu_count
from torch import Tensor

from console.errors import CONTROL_CHARACTERS, UserError
from inputs import augment
from inputs.image_data import ImageData, hold_out, limit_training_set
from inputs.sources import DATA_DIR, source_of
from recipe import EVALUATION_BATCH, Recipe

PREFETCH = 4  # batches per worker process
Share = Callable[[int], slice]  # maps a number of images to those of them that are this process's
all_images: Share = slice  # slice(count) is all of them
# images uint8 (B, 3, 32, 32) in channels-last and labels int64 (B,) of this process, and the
# number of images in the batch of all processes
Batch = tuple[Tensor, Tensor, int]


def load(
    dataset: str,
    data_dir: Path = DATA_DIR,
    limit_train: int | None = None,
    holdout: int | None = None,
) -> ImageData:
    """Loads the images that `dataset` names into memory, as uint8 RGB of 32x32 pixels.

    Args:
        dataset: what --dataset accepts, see `inputs.sources.SOURCES`.
        data_dir: the folder of CIFAR-10's official files, which are downloaded there if they are
            missing, and of the 32x32 copies of image folders.
        limit_train: use at most this many training images.
        holdout: of these, hold out this many in place of the test set.

    Raises:
        UserError: there is no such data set, or it is broken; the message says where and how.
    """
    data = import_module(f"inputs.{source_of(dataset).module}").load(dataset, data_dir)
    for name in data.classes:
        if CONTROL_CHARACTERS.search(name):
            raise UserError(
                f"--dataset {dataset}: the class name {name!a} has control characters or is "
                "no UTF-8; rename it"
            )
    if limit_train is not None:
        data = limit_training_set(data, limit_train)
    return data if holdout is None else hold_out(data, holdout)


def check_batch_size(batch_size: int, images: int, processes: int = 1) -> None:
    """Raises UserError if there are too few images for one batch, or for all processes."""
    if batch_size > images:
        raise UserError(
            f"--batch-size {batch_size} is above the {images} training images; use a smaller one",
            status=2,
        )
    last = images % batch_size or batch_size
    if last < processes:
        raise UserError(
            f"--batch-size {batch_size} leaves a last batch of {last} images for {processes} "
            "processes; use another one, or fewer processes",
            status=2,
        )


def training_batches(
    data: ImageData,
    recipe: Recipe,
    device: torch.device,
    workers: int | str = 0,
    share: Share = all_images,
    processes: int = 1,
) -> HostBatches | DeviceBatches:
    """The training set, augmented as the recipe says.

    Args:
        workers: the number of processes that augment, or "auto".
        share: this process's part of each batch, if several processes train together.
        processes: how many of them are on this machine.
    """
    if recipe.augment == "device":
        return DeviceBatches(data, recipe, device, share)
    return HostBatches(data, recipe, device, worker_count(workers, device, processes), share)


def evaluation_batches(
    data: ImageData, device: torch.device, share: Share = all_images
) -> list[tuple[Tensor, Tensor]]:
    """This process's share of the test images, on `device`: uint8 (B, 3, 32, 32), int64 (B,)."""
    chosen = share(len(data.test_labels))
    images = as_tensor(data.test_images[chosen]).to(device)
    labels = torch.from_numpy(data.test_labels[chosen]).to(device)
    size = EVALUATION_BATCH[device.type]
    return list(zip(images.split(size), labels.split(size), strict=True))


def worker_count(workers: int | str, device: torch.device, processes: int = 1) -> int:
    """The number of worker processes for a value of --workers, a number or "auto".

    On one or two CPU cores a worker would take time from the training step, so augmenting between
    the steps is faster. On more cores two workers keep up with training. With an accelerator the
    cores are free to augment; more than 16 are never needed. `processes` that train on this
    machine share its cores.
    """
    if workers != "auto":
        return int(workers)
    cores = cpu_count() // processes
    if device.type != "cpu":
        return max(1, min(cores, 16))
    return 2 if cores > 2 else 0


class HostBatches:
    """`epoch(n)` yields the batches of epoch n, which Albumentations augments.

    It runs in `workers` processes, or in this one if that is 0. They return batches through pipes:
    the shared memory that a DataLoader's workers need may be 64 MB in a container, and a worker
    that lacks it hangs.

    Each of several training processes augments the whole batch, since its random numbers are one
    sequence, and yields its share.
    """

    def __init__(
        self, data: ImageData, recipe: Recipe, device: torch.device, workers: int, share: Share
    ):
        self.recipe, self.device, self.share = recipe, device, share
        self.images = len(data.train_labels)
        self.steps = count_steps(self.images, recipe.batch_size)  # of an epoch
        self.augment = HostAugmenter(data, recipe)
        self.ahead = PREFETCH * workers  # batches that are augmented before they are needed
        self.pool = None
        if workers:
            self.pool = ProcessPoolExecutor(workers, None, begin_worker, (self.augment,))
            # also before a process waits at its end for its children, and closes its queues (10)
            Finalize(self, self.pool.shutdown, exitpriority=100)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        order = augment.epoch_rng(self.recipe.seed, epoch).permutation(self.images)
        size = self.recipe.batch_size
        batches = np.split(order, range(size, self.images, size))
        for images, labels in self._augmented([(epoch, *each) for each in enumerate(batches)]):
            chosen = self.share(len(labels))
            parts = [as_tensor(images[chosen]), torch.from_numpy(labels[chosen])]
            if self.device.type == "cuda":  # the copy from other memory would wait for the device
                parts = [part.pin_memory() for part in parts]
            on_device = (part.to(self.device, non_blocking=True) for part in parts)
            yield *on_device, len(labels)

    def _augmented(self, batches: list[tuple]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if not self.pool:
            yield from (self.augment(*batch) for batch in batches)
            return
        waiting = deque()
        try:
            for batch in batches:
                waiting.append(self.pool.submit(augment_in_worker, *batch))
                if len(waiting) > self.ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # not needed any more if the epoch was left
            for future in waiting:
                future.cancel()


class HostAugmenter:
    """(epoch, batch number, indices) -> images uint8 (B, 32, 32, 3), labels int64 (B,).

    Albumentations has a random state of its own, which is seeded once per batch.
    """

    def __init__(self, data: ImageData, recipe: Recipe):
        self.images, self.labels = data.train_images, data.train_labels
        self.pipeline = augment.build_pipeline(recipe.augmentation, data.mean)
        self.seed = recipe.seed

    def __call__(self, epoch: int, number: int, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        self.pipeline.set_random_seed(augment.batch_seed(self.seed, epoch, number))
        images = np.stack([self.pipeline(image=self.images[i])["image"] for i in indices])
        return images, self.labels[indices]


def begin_worker(augmenter: HostAugmenter) -> None:
    """Makes `augment_in_worker` work in a process of the pool, which ends with its parent."""
    global augment_in_worker_with
    augment_in_worker_with = augmenter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def augment_in_worker(*batch: object) -> tuple[np.ndarray, np.ndarray]:
    return augment_in_worker_with(*batch)


class DeviceBatches:
    """`epoch(n)` yields the batches of epoch n, which the training device augments.

    The data set is on the device, as uint8.

    The random numbers of an epoch are drawn on the CPU and copied to the device before its first
    batch; nothing is copied after that.
    """

    def __init__(self, data: ImageData, recipe: Recipe, device: torch.device, share: Share):
        self.recipe, self.share = recipe, share
        self.steps = count_steps(len(data.train_labels), recipe.batch_size)  # of an epoch
        self.images = torch.from_numpy(data.train_images).to(device)  # (N, H, W, C)
        self.labels = torch.from_numpy(data.train_labels).to(device)
        self.fill = torch.tensor(augment.hole_fill(data.mean), device=device)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        count, size = self.images.shape[:2]
        order, draws = augment.draw_epoch(self.recipe, epoch, count, size)
        drawn = (order, augment.sampling_matrices(draws, size), draws.hole)
        on_device = [torch.from_numpy(array).to(self.images.device) for array in drawn]
        parts = [tensor.split(self.recipe.batch_size) for tensor in on_device]
        hole_size = self.recipe.augmentation.hole_size
        for batch in zip(*parts, strict=True):
            chosen, matrices, holes = (part[self.share(len(part))] for part in batch)
            images = self.images[chosen].permute(0, 3, 1, 2)
            augmented = augment.augment_batch(images, matrices, holes, hole_size, self.fill)
            yield augmented, self.labels[chosen], len(batch[0])


def count_steps(images: int, batch_size: int) -> int:
    """The number of batches in an epoch; the last one may be smaller."""
    return -(-images // batch_size)


def endless(batches: HostBatches | DeviceBatches) -> Iterator[Batch]:
    """The batches of epoch 1, 2 and so on."""
    for epoch in itertools.count(1):
        yield from batches.epoch(epoch)


def as_tensor(images: np.ndarray) -> Tensor:
    """Images (N, H, W, C) as (N, C, H, W) in channels-last; not copied."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)
