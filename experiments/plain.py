"""A straightforward training script, for experiments.bench and time_to_85 to compare with.

float32 images in NCHW, augmented and normalised one by one; a loader with default options; a loop
that waits for its loss in every step.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import albumentations as A
import numpy as np
import torch
import torch.nn.functional as F
from albumentations.pytorch import ToTensorV2
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

from inputs.augment import build_pipeline, hole_fill
from inputs.image_data import ImageData
from model import build_network
from recipe import Augmentation, Recipe

ADAMW_LR = 0.001  # the learning rate of the assignment's command, read as PyTorch does

Batch = tuple[Tensor, Tensor]
Transform = Callable[[np.ndarray], Tensor]  # uint8 (H, W, 3) -> float32 (3, H, W), normalised


def albumentations_transform(
    data: ImageData, augmentation: Augmentation, seed: int | None = None
) -> Transform:
    augment = build_pipeline(augmentation, data.mean)
    normalise = A.Normalize(data.mean, data.std)
    pipeline = A.Compose([*augment.transforms, normalise, ToTensorV2()], seed=seed)
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


def make_loader(data: ImageData, transform: Transform, batch_size: int, workers: int) -> DataLoader:
    dataset = PlainDataset(data, transform)
    return DataLoader(dataset, batch_size, shuffle=True, num_workers=workers)


def train(
    network: nn.Module,
    optimizers: Sequence[Optimizer],
    batches: Iterable[Batch],
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Takes a training step on each batch, on the device of `network`."""
    device = next(network.parameters()).device
    # PyTorch's defaults, which `pick_device` changes
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = True, False
    network.train()
    total_loss, hits = 0.0, 0  # what a script prints; `.item()` waits for the step
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        network.zero_grad()
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        after_step()
        total_loss += loss.item()
        hits += (logits.argmax(1) == labels).sum().item()


def train_and_evaluate(
    data: ImageData, recipe: Recipe, device: torch.device, workers: int
) -> Iterator[float]:
    """Trains `Net`; the test accuracy in percent after each epoch.

    The learning rate of AdamW follows OneCycleLR up to ADAMW_LR; both have PyTorch's defaults.
    """
    torch.manual_seed(recipe.seed)
    transform = albumentations_transform(data, recipe.augmentation, recipe.seed)
    loader = make_loader(data, transform, recipe.batch_size, workers)
    test_images = torch.from_numpy(data.test_images).permute(0, 3, 1, 2) / 255
    test_images = transforms.Normalize(data.mean, data.std)(test_images)
    test_set = TensorDataset(test_images, torch.from_numpy(data.test_labels))
    network = build_network(num_classes=len(data.classes)).to(device)
    optimizer = AdamW(network.parameters(), ADAMW_LR)
    schedule = OneCycleLR(optimizer, ADAMW_LR, total_steps=recipe.epochs * len(loader))
    for _ in range(recipe.epochs):
        train(network, [optimizer], loader, schedule.step)
        yield test_accuracy(network, DataLoader(test_set, recipe.batch_size), device)


@torch.no_grad()
def test_accuracy(network: nn.Module, batches: Iterable[Batch], device: torch.device) -> float:
    """Top-1 accuracy in percent."""
    network.eval()
    hits = images_seen = 0
    for images, labels in batches:
        hits += (network(images.to(device)).argmax(1).cpu() == labels).sum().item()
        images_seen += len(labels)
    return 100 * hits / images_seen
