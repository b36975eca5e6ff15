"""The log and the pictures of a run for TensorBoard, with --tensorboard only."""

from functools import cached_property
from pathlib import Path

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from records import names
from records.run import LogRow


class Board:
    """Writes the figures of each epoch, and the run's pictures at its end; nothing before that.

    Args:
        out: the folder of the run.
        epochs: the number of epochs before a resume; what was written for later ones is replaced.
    """

    def __init__(self, out: Path, epochs: int):
        self.out, self.epochs = out, epochs

    @cached_property
    def writer(self) -> SummaryWriter:
        return SummaryWriter(str(self.out / names.TENSORBOARD), purge_step=self.epochs + 1)

    def add_epoch(self, row: LogRow) -> None:
        for name, value in vars(row).items():
            if name != "epoch" and value is not None:
                kind, _, figure = name.rpartition("_")
                self.writer.add_scalar(f"{figure}/{kind}" if kind else name, value, row.epoch)
        self.writer.flush()

    def add_figures(self, figures: dict[str, Figure], epoch: int) -> None:
        for name, figure in figures.items():
            self.writer.add_figure(name, figure, epoch)
        self.writer.close()
