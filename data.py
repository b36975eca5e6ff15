"""How images become batches, augmented anew in every epoch, on the device that trains.

    data = sources.load("cifar10", Path("data"))
    batches = training_batches(data, Recipe(), torch.device("cpu"), workers="auto")
    normalise = Normalise(data.mean, data.std)
    for images, labels in batches.epoch(1):       # uint8 (B, 3, 32, 32), int64 (B,)
        images = normalise(images)                # float32

Augmentation and order are a pure function of (seed, epoch, batch number): neither the number of
workers nor a resume changes what an image looks like in epoch 7.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from cli import UserError

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

import augment
from distributed import ALONE, Ranks
from recipe import Recipe
from sources import ImageData


def training_batches(
    data: ImageData,
    recipe: Recipe,
    device: torch.device,
    workers: int | str,
    ranks: Ranks = ALONE,
) -> HostBatches | DeviceBatches:
    """The training set as the recipe augments it; `workers` are a number or "auto"."""
    if recipe.augment == "device":
        return DeviceBatches(data, recipe, device, ranks)
    return HostBatches(data, recipe, device, worker_count(workers, device), ranks)


def check_batch_size(recipe: Recipe, data: ImageData, processes: int = 1) -> None:
    """Raises UserError if there are too few images for a single batch, or for all processes."""
    if recipe.batch_size > len(data.train_labels):
        raise UserError(
            f"--batch-size {recipe.batch_size} is above the {len(data.train_labels)} training "
            "images; use a smaller one"
        )
    last = len(data.train_labels) % recipe.batch_size or recipe.batch_size
    if last < processes:
        raise UserError(
            f"--batch-size {recipe.batch_size} leaves a last batch of {last} images for "
            f"{processes} processes; use another one, or fewer processes"
        )


def worker_count(workers: int | str, device: torch.device) -> int:
    """How many worker processes --workers means.

    A training step on one or two cores has none to spare for a worker, and augmenting between
    the steps is the faster. On more cores two workers keep up with it. With an accelerator the
    cores are free to augment, and more than 16 would be ahead of the fastest.
    """
    if workers != "auto":
        return int(workers)
    cores = usable_cores()
    if device.type != "cpu":
        return min(cores, 16)
    return 2 if cores > 2 else 0


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def batch_seed(seed: int, epoch: int, number: int) -> int:
    """A 32-bit seed for one batch, well mixed from where it stands in the run."""
    return int(np.random.SeedSequence([seed, epoch, number]).generate_state(1)[0])


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """What draws an epoch; the order of its images comes first."""
    return np.random.default_rng([seed, epoch])


class HostBatches:
    """Batches that Albumentations augments, in `workers` processes, or here if that is 0.

    Of several training processes each augments all of a batch, for the sake of what it draws,
    and yields its share.
    """

    def __init__(
        self,
        data: ImageData,
        recipe: Recipe,
        device: torch.device,
        workers: int,
        ranks: Ranks = ALONE,
    ):
        self.device, self.ranks = device, ranks
        on_cuda = device.type == "cuda"
        self.loader = DataLoader(
            AugmentedBatches(data, recipe.seed),
            sampler=EpochBatches(len(data.train_labels), recipe.batch_size, recipe.seed),
            batch_size=None,  # an item is a batch already
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=on_cuda,
            prefetch_factor=(4 if on_cuda else 2) if workers else None,
            worker_init_fn=_leave_interrupts_to_the_parent,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's images uint8 (B, 3, 32, 32) in channels-last and labels int64 (B,)."""
        self.loader.sampler.epoch = epoch
        for images, labels in self.loader:
            share = self.ranks.share(len(labels))
            yield (
                images[share].to(self.device, non_blocking=True),
                labels[share].to(self.device, non_blocking=True),
            )


class EpochBatches(Sampler):
    """Which images make which batch: items (epoch, batch number, indices) of the set `epoch`."""

    def __init__(self, size: int, batch_size: int, seed: int):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch = 1

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, int, np.ndarray]]:
        order = epoch_rng(self.seed, self.epoch).permutation(self.size)
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
        self.pipeline = augment.build_pipeline(data.mean)
        self.seed = seed

    def __getitem__(self, item: tuple[int, int, np.ndarray]) -> tuple[Tensor, Tensor]:
        epoch, number, indices = item
        self.pipeline.set_random_seed(batch_seed(self.seed, epoch, number))
        images = np.stack([self.pipeline(image=self.images[i])["image"] for i in indices])
        return as_tensor(images), torch.from_numpy(self.labels[indices])


def _leave_interrupts_to_the_parent(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class DeviceBatches:
    """Batches that the training device augments, from a data set that lies on it as uint8.

    What is drawn for an epoch goes to the device before its first batch, and nothing after that.
    """

    def __init__(self, data: ImageData, recipe: Recipe, device: torch.device, ranks: Ranks = ALONE):
        self.ranks = ranks
        self.images = torch.from_numpy(data.train_images).to(device)  # (N, H, W, C), as it is
        self.labels = torch.from_numpy(data.train_labels).to(device)
        self.fill = torch.tensor(augment.hole_fill(data.mean), device=device)
        self.recipe = recipe

    def __len__(self) -> int:
        return -(-len(self.labels) // self.recipe.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's images uint8 (B, 3, 32, 32) in channels-last and labels int64 (B,)."""
        count, size = self.images.shape[:2]
        rng = epoch_rng(self.recipe.seed, epoch)
        order = rng.permutation(count)
        draws = augment.draw(rng, count, size)
        drawn = (order, augment.sampling_matrices(draws, size), draws.hole)
        on_device = [torch.from_numpy(array).to(self.images.device) for array in drawn]
        parts = [tensor.split(self.recipe.batch_size) for tensor in on_device]
        for batch in zip(*parts, strict=True):
            chosen, matrices, holes = (part[self.ranks.share(len(part))] for part in batch)
            images = self.images[chosen].permute(0, 3, 1, 2)
            yield augment.apply(images, matrices, holes, self.fill), self.labels[chosen]


def as_tensor(images: np.ndarray) -> Tensor:
    """Images (N, H, W, C) as PyTorch wants them, (N, C, H, W) in channels-last; not copied."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


class Normalise(nn.Module):
    """uint8 (B, 3, H, W) -> float32 of mean 0 and standard deviation 1 over the training set.

    `mean` and `std` are the training set's, 0..1, per channel.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        std_ = torch.tensor(std).clamp(min=1e-6)
        self.register_buffer("scale", (1 / (255 * std_)).view(3, 1, 1))
        self.register_buffer("shift", (-torch.tensor(mean) / std_).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images, self.scale)  # in one pass over the batch
