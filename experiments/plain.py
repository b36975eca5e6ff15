"""What a straightforward training script does, for bench.py to compare with.

float32 images in NCHW, augmented and normalised one by one; a loader without further care; a loop
that waits for its loss in every step. The optimizers are those of train.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import albumentations as A
import numpy as np
import torch
import torch.nn.functional as F
from albumentations.pytorch import ToTensorV2
from augment import AUGMENTATION, build_pipeline, hole_fill
from sources import ImageData
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from trainer import make_optimizers

from model import Net
from recipe import Recipe

Transform = Callable[[np.ndarray], Tensor]  # uint8 (H, W, 3) -> float32 (3, H, W), normalised


class AlbumentationsTransform:
    """Albumentations' own transforms, and no quicker ones, of augment.py's parameters."""

    def __init__(self, data: ImageData):
        own = build_pipeline(data.mean, A.ShiftScaleRotate, A.CoarseDropout)
        normalise = A.Normalize(data.mean, data.std)
        self.pipeline = A.Compose([*own.transforms, normalise, ToTensorV2()])

    def __call__(self, image: np.ndarray) -> Tensor:
        return self.pipeline(image=image)["image"]


def torchvision_transform(data: ImageData) -> Transform:
    """torchvision's nearest to the same augmentation; it fills borders with black."""
    a = AUGMENTATION
    shift, scale = a["shift_limit"], a["scale_limit"]
    affine = transforms.RandomAffine(
        a["rotate_limit"], translate=(shift, shift), scale=(1 - scale, 1 + scale)
    )
    area = (a["hole_size"] / data.train_images.shape[1]) ** 2
    fill = [value / 255 for value in hole_fill(data.mean)]
    return transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomHorizontalFlip(a["flip_p"]),
            transforms.RandomApply([affine], a["affine_p"]),
            transforms.ToTensor(),
            transforms.RandomErasing(a["hole_p"], scale=(area, area), ratio=(1, 1), value=fill),
            transforms.Normalize(data.mean, data.std),
        ]
    )


class PlainDataset(Dataset):
    def __init__(self, data: ImageData, transform: Transform):
        self.images, self.labels, self.transform = data.train_images, data.train_labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def endless_batches(
    data: ImageData, transform: Transform, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    dataset = PlainDataset(data, transform)
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers)
    while True:
        yield from loader


def training_loop(
    data: ImageData, device: torch.device, recipe: Recipe
) -> Callable[[Iterable[tuple[Tensor, Tensor]]], None]:
    """A function that takes a training step on each of the batches that it is given."""
    model = Net(len(data.classes)).to(device)
    optimizers = make_optimizers(model, replace(recipe, lr=recipe.lr / 10))  # without a schedule

    def train(batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        model.train()
        total_loss, hits = 0.0, 0
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            model.zero_grad()
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            total_loss += loss.item()
            hits += (logits.argmax(1) == labels).sum().item()

    return train
