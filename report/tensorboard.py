"""A run as TensorBoard shows it; only with --tensorboard, whose package is not required."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import artifacts
from artifacts import LogRow


class Board:
    """Writes the log's figures, epoch by epoch, and the run's pictures at its end."""

    def __init__(self, out: Path, log: list[LogRow]):
        from torch.utils.tensorboard import SummaryWriter

        self.out = out
        folder = out / artifacts.TENSORBOARD
        self.writer = SummaryWriter(str(folder), purge_step=len(log) + 1)

    def add_epoch(self, row: LogRow) -> None:
        for name, value in vars(row).items():
            if name != "epoch" and value is not None:
                kind, _, figure = name.rpartition("_")
                self.writer.add_scalar(f"{figure}/{kind}" if kind else name, value, row.epoch)
        self.writer.flush()

    def add_pictures(self, epoch: int) -> None:
        for name in (artifacts.AUGMENTED_GRID, artifacts.CONFUSION_PLOT, artifacts.MISTAKES_GRID):
            with Image.open(self.out / name) as image:
                pixels = np.asarray(image.convert("RGB"))
            self.writer.add_image(name.stem, pixels, epoch, dataformats="HWC")
        self.writer.close()
