"""A straightforward training script, for experiments.bench to compare with.

float32 images in NCHW, augmented and normalised one by one; a loader with default options; a loop
that waits for its loss in every step. The optimizers are those of train.py.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import albumentations as A
import numpy as np
import torch
import torch.nn.functional as F
from albumentations.pytorch import ToTensorV2
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from inputs.augment import build_pipeline, hole_fill
from inputs.image_data import ImageData
from model import build_network
from recipe import Augmentation, Recipe
from training.optimizers import make_optimizers

Batch = tuple[Tensor, Tensor]
Transform = Callable[[np.ndarray], Tensor]  # uint8 (H, W, 3) -> float32 (3, H, W), normalised


def albumentations_transform(data: ImageData, augmentation: Augmentation) -> Transform:
    augment = build_pipeline(augmentation, data.mean)
    normalise = A.Normalize(data.mean, data.std)
    pipeline = A.Compose([*augment.transforms, normalise, ToTensorV2()])
    return lambda image: pipeline(image=image)["image"]


def torchvision_transform(data: ImageData, a: Augmentation) -> Transform:
    """The nearest to the same augmentation that torchvision has; it fills borders with black."""
    affine = transforms.RandomAffine(
        a.rotate_limit,
        translate=(a.shift_limit, a.shift_limit),
        scale=(1 - a.scale_limit, 1 + a.scale_limit),
    )
    area = (a.hole_size / data.train_images.shape[1]) ** 2
    fill = [value / 255 for value in hole_fill(data.mean)]
    return transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomHorizontalFlip(a.flip_p),
            transforms.RandomApply([affine], a.affine_p),
            transforms.ToTensor(),
            transforms.RandomErasing(a.hole_p, scale=(area, area), ratio=(1, 1), value=fill),
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
) -> Iterator[Batch]:
    dataset = PlainDataset(data, transform)
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers)
    while True:
        yield from loader


def training_loop(
    data: ImageData, device: torch.device, recipe: Recipe
) -> Callable[[Iterable[Batch]], None]:
    """A function that takes a training step on each batch that it is given."""
    network = build_network(num_classes=len(data.classes)).to(device)
    optimizers = make_optimizers(network, replace(recipe, lr=recipe.lr / 10))  # no schedule

    def train(batches: Iterable[Batch]) -> None:
        network.train()
        total_loss, hits = 0.0, 0
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            network.zero_grad()
            logits = network(images)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            total_loss += loss.item()
            hits += (logits.argmax(1) == labels).sum().item()

    return train
