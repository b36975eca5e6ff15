"""The log and the pictures of a run for TensorBoard, with --tensorboard only."""

from functools import cached_property
from pathlib import Path

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from records import names
from records.results import LogRow


class Board:
    """Writes the figures of each epoch, and the run's pictures at its end; nothing before that.

    `epochs` were finished before a resume: what was written for later ones is replaced.
    """

    def __init__(self, out: Path, epochs: int):
        self.out, self.epochs = out, epochs

    @cached_property
    def writer(self) -> SummaryWriter:
        return SummaryWriter(str(self.out / names.TENSORBOARD), purge_step=self.epochs + 1)

    def add_epoch(self, row: LogRow, split: str) -> None:
        figures = {field: value for field, value in vars(row).items() if field != "epoch"}
        for field, value in figures.items():
            side, _, figure = field.partition("_")
            tag = {"train": f"{figure}/train", "eval": f"{figure}/{split}"}.get(side, field)
            self.writer.add_scalar(tag, value, row.epoch)
        self.writer.flush()

    def add_figures(self, figures: dict[str, Figure], epoch: int) -> None:
        for name, figure in figures.items():
            self.writer.add_figure(name, figure, epoch)
        self.writer.close()
