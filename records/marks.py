"""Rows of the tables beside runs.csv: the speed of training, results of others."""

from dataclasses import dataclass

from records.tables import Strict


@dataclass(frozen=True)
class BenchRow(Strict):
    """The speed of one way of training: medians over rounds, the slowest and the fastest round."""

    mode: str
    images_per_second: float
    slowest: float
    fastest: float
    share_of_ceiling: float
    ratio_to_plain: float
    peak_memory_mb: int  # of the training process, without its workers
    device: str
    command: str
    commit: str = ""  # see `results.read_commit`; "" where it is unknown


@dataclass(frozen=True, kw_only=True)
class Mark(Strict):
    """A result of others on CIFAR-10's test set, written by hand."""

    who: str
    source: str = ""  # an address; "" if it is unpublished
    params: int
    constraints_kept: str
    epochs: str
    test_acc: float
