"""What decides how a run ends: the one place for its defaults."""

from __future__ import annotations

from dataclasses import dataclass

AUGMENTERS = ("albumentations", "device")


@dataclass(frozen=True)
class Recipe:
    """Two runs of one recipe, network and data set are the same run; a resume insists on it."""

    epochs: int = 25
    batch_size: int = 128
    lr: float = 0.001  # per image of a batch: the schedule peaks at lr * batch_size
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    width: float = 1.0
    augment: str = AUGMENTERS[0]
    seed: int = 0
