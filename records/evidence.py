"""Columns of the measurements over many runs (`names` lists their files)."""

import re
from dataclasses import dataclass

UNCHANGED = "none"  # the change of an ablation's run that has none


@dataclass(frozen=True)
class BenchRow:
    """The speed of one way of training: medians over rounds, the slowest and the fastest round."""

    mode: str
    images_per_second: float
    slowest: float
    fastest: float
    share_of_ceiling: float
    ratio_to_plain: float
    peak_memory_mb: float  # of the training process, without its workers
    device: str
    command: str


@dataclass(frozen=True)
class RecipeRow:
    """A finished run that counts as evidence; accuracies on the test set, in percent."""

    model: str
    params: int
    mult_adds: int  # for one image
    epochs: int
    seed: int
    dataset: str
    test_acc: float  # of the last epoch
    best_test_acc: float
    seconds: float
    device: str
    command: str

    @property
    def recipe(self) -> str:
        """The command without the flags that differ between runs of one recipe."""
        return re.sub(r" --(seed|out)[ =]\S+", "", self.command)


@dataclass(frozen=True)
class AblationRow:
    """A run of the recipe with one change, evaluated on held-out training images."""

    change: str  # UNCHANGED for the recipe itself
    epochs: int
    seed: int
    dataset: str
    val_loss: float  # of the last epoch
    val_acc: float
    val_acc_flipped: float  # of the logits' mean over an image and its mirror image
    train_loss: float
    device: str
    command: str


@dataclass(frozen=True)
class Mark:
    """A result of others on CIFAR-10's test set; "?" stands for an unknown figure."""

    who: str
    source: str  # an address
    params: int
    mult_adds: str
    constraints_kept: str
    epochs: str
    test_acc: float
