"""A straightforward training script, to compare with: it trains `Net` and adds a row to runs.csv.

    python -m experiments.plain --dataset cifar10 --epochs 50 --seed 0

float32 images in NCHW, augmented and normalised one by one; a loader with default options; a loop
that waits for its loss in every step; AdamW with OneCycleLR, which have PyTorch's defaults.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import albumentations as A
import torch
import torch.nn.functional as F
from albumentations.pytorch import ToTensorV2
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

from console.errors import command_line, run
from console.files import check_writable
from console.flags import Device, parse, setting
from constraints.tables import count_mult_adds, count_parameters
from data import load, worker_count
from inputs.augment import build_pipeline
from inputs.image_data import ImageData
from inputs.sources import DataFlags, unambiguous_name
from model import Normalised, build_network
from recipe import Recipe
from records import names
from records.results import read_commit
from records.runs import PLAIN_SCRIPT, RunRow, add_rows, write_recipe
from training.devices import describe_device, pick_device

ADAMW_LR = 0.001  # the learning rate of the assignment's command, read as PyTorch does


@dataclass(frozen=True)
class Options(DataFlags, Device):
    """options"""

    epochs: int = setting(25, "passes over the training images", at_least=1)
    seed: int = setting(0, "seed of weights, order and augmentation", at_least=0, below=2**32)
    results: Path = setting(names.RESULTS, "folder of runs.csv", metavar="DIR")


def main() -> None:
    options = parse("Train Net with a straightforward script; see docs/speed.md.", Options)
    check_writable(options.results, "--results")
    device = pick_device(options.device)
    data = load(options.dataset, options.data_dir)
    recipe = Recipe(
        epochs=options.epochs,
        lr_per_image=ADAMW_LR / Recipe.batch_size,
        label_smoothing=0.0,
        seed=options.seed,
    )
    torch.manual_seed(recipe.seed)
    network = build_network(num_classes=len(data.classes))
    start = time.perf_counter()
    for train_acc, accuracy, loss in train_and_evaluate(network.to(device), data, recipe, device):
        seconds = time.perf_counter() - start
        figures = f"training {train_acc:.2f} %, test {accuracy:.2f} %, loss {loss:.4f}"
        print(f"{figures} after {seconds:.0f} s", flush=True)
    row = RunRow(
        script=PLAIN_SCRIPT,
        network="Net",
        parameters=count_parameters(network),
        mult_adds=count_mult_adds(network),
        recipe=write_recipe(recipe),
        seed=recipe.seed,
        epochs=recipe.epochs,
        dataset=unambiguous_name(data.name, data.fingerprint),
        split=data.split,
        accuracy=round(accuracy, 3),
        loss=round(loss, 6),
        train_acc=round(train_acc, 3),
        seconds=round(seconds, 3),
        device=describe_device(device),
        commit=read_commit(),
        command=command_line(),
    )
    add_rows(options.results, [row])


class PlainDataset(Dataset):
    """Item -> image float32 (3, H, W), augmented and normalised, and its label."""

    def __init__(self, data: ImageData, transform: A.Compose):
        self.images, self.labels, self.transform = data.train_images, data.train_labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(image=self.images[index])["image"], int(self.labels[index])


def make_loader(data: ImageData, recipe: Recipe, workers: int) -> DataLoader:
    augment = build_pipeline(recipe.augmentation, data.mean)
    normalise = A.Normalize(data.mean, data.std)
    transform = A.Compose([*augment.transforms, normalise, ToTensorV2()], seed=recipe.seed)
    dataset = PlainDataset(data, transform)
    return DataLoader(dataset, recipe.batch_size, shuffle=True, num_workers=workers)


def train(
    network: nn.Module,
    optimizers: Sequence[Optimizer],
    batches: Iterable[tuple[Tensor, Tensor]],
    after_step: Callable[[], None] = lambda: None,
) -> tuple[float, int]:
    """A training step on each batch; the accuracy before each in percent, and the images."""
    device = next(network.parameters()).device
    # PyTorch's defaults, which `pick_device` changes
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = True, False
    network.train()
    hits = count = 0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        network.zero_grad()
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        after_step()
        hits += (logits.argmax(1) == labels).sum().item()  # waits for the step
        count += len(labels)
    return 100 * hits / count, count


def train_and_evaluate(
    network: nn.Module, data: ImageData, recipe: Recipe, device: torch.device
) -> Iterator[tuple[float, float, float]]:
    """Trains `network`; training accuracy, test accuracy (%) and test loss of each epoch."""
    loader = make_loader(data, recipe, worker_count("auto", device))
    optimizer = AdamW(network.parameters(), ADAMW_LR)
    schedule = OneCycleLR(optimizer, ADAMW_LR, total_steps=recipe.epochs * len(loader))
    evaluated = Normalised(network, data.mean, data.std).to(device)
    images = torch.from_numpy(data.test_images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(data.test_labels)
    for _ in range(recipe.epochs):
        train_acc, _ = train(network, [optimizer], loader, schedule.step)
        logits = evaluated.logits(images)
        accuracy = 100 * (logits.argmax(1) == labels).double().mean().item()
        yield train_acc, accuracy, F.cross_entropy(logits, labels).item()


if __name__ == "__main__":
    run(main)
