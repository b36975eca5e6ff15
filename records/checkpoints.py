"""Checkpoints: writing and reading them."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from console.errors import UserError
from model import build_network
from records.files import existing, replacing
from records.tables import validated


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint has besides its network so that training can be resumed."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    settings: dict[str, Any]  # which a resumed run must have too
    log: list[dict[str, int | float | None]]  # the finished epochs, rows of `run.LogRow`
    step: int  # optimizer steps taken
    optimizers: list[dict[str, Any]]
    scaler: dict[str, Any]  # of float16 gradients; empty for other types


@dataclass(frozen=True)
class Checkpoint:
    """All that is needed to use a network, and in last.pt to train it further."""

    __pydantic_config__ = {"extra": "forbid", "arbitrary_types_allowed": True}  # noqa: RUF012

    network: str  # a key of `recipe.NETWORKS`
    arguments: dict[str, Any]  # of its constructor
    weights: dict[str, Tensor]
    classes: list[str]
    mean: list[float]
    std: list[float]
    epoch: int
    test_acc: float | None
    val_acc: float | None
    training: TrainingState | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    training = checkpoint.training and vars(checkpoint.training)
    buffer = io.BytesIO()  # write_bytes reports a full disk more clearly than torch.save
    torch.save({**vars(checkpoint), "training": training}, buffer)
    with replacing(path) as beside:
        beside.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads `path` to the CPU, without unpickling code; UserError if it is no checkpoint."""
    _check_archive(path)
    try:
        checkpoint = validated(Checkpoint, torch.load(path, map_location="cpu", weights_only=True))
        if {len(checkpoint.mean), len(checkpoint.std)} != {3} or len(checkpoint.classes) < 2:
            raise ValueError("a wrong number of channels or of classes")
        return checkpoint
    except Exception as error:  # a strange file can make the unpickler raise anything
        raise UserError(f"{path} is not a checkpoint that train.py wrote") from error


def _check_archive(path: Path) -> None:
    """UserError unless `path` is an undamaged zip archive, as torch.save writes it."""
    with existing(path).open("rb") as stream:
        if stream.read(4) != b"PK\3\4":
            raise UserError(f"{path} is not a checkpoint that train.py wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            intact = archive.testzip() is None  # torch.load does not look at the checksums
    except Exception:  # a broken file can make zipfile raise anything
        intact = False
    if not intact:
        raise UserError(f"{path} is damaged; move it away and train again")


def load_weights(network: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Puts the weights of `checkpoint`, which was read from `path`, into `network`."""
    with _other_network_refused(path):
        network.load_state_dict(checkpoint.weights)


def network_of(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The network that `checkpoint`, which was read from `path`, describes, with its weights."""
    with _other_network_refused(path):
        with torch.device("meta"):  # takes no memory, however large the arguments are
            shapes = build_network(checkpoint.network, **checkpoint.arguments)
            shapes.load_state_dict(checkpoint.weights, assign=True)
        network = build_network(checkpoint.network, **checkpoint.arguments)
        network.load_state_dict(checkpoint.weights)
        return network


@contextmanager
def _other_network_refused(path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as e:
        raise UserError(
            f"{path} has another network than model.py: {' '.join(str(e).split())[:200]}"
        ) from e
